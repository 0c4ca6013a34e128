"""Engines: what carries messages between this process and others."""

from typing import Protocol

from iodine_aio.pubsub.message import Message


class Engine(Protocol):
    """Carries messages between this process and others.

    It is told of a channel, or a pattern, when its first subscriber comes and when its
    last one goes. What comes from elsewhere it hands to `Broker.deliver`.
    """

    def subscribe(self, channel: str, pattern: bool) -> None:
        """Messages of `channel` are wanted here from now on."""

    def unsubscribe(self, channel: str, pattern: bool) -> None:
        """Messages of `channel` are not wanted here any more."""

    def publish(self, message: Message) -> None:
        """Carries `message`, which was delivered here, to the others."""


class CarryingEngine(Engine, Protocol):
    """An engine that works on a loop."""

    async def open(self) -> None:
        """Begins to work on the running loop; others may be out of reach for now."""

    async def close(self) -> None:
        """Ends, when what was published has left, or does not within a second."""


class ProcessEngine:
    """The engine of a process that is alone: there is nobody else."""

    def subscribe(self, channel: str, pattern: bool) -> None:
        pass

    def unsubscribe(self, channel: str, pattern: bool) -> None:
        pass

    def publish(self, message: Message) -> None:
        pass
