"""The bridge: a process between the hub of a parent and Redis.

Of a server with workers it alone is connected to Redis, and passes on what either end says.
"""

import asyncio
import signal
import socket

from iodine_aio.loop import new_event_loop
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.outbox import Losses
from iodine_aio.pubsub.packets import (
    MAX_CHANNEL_BYTES,
    MAX_DATA_BYTES,
    SUBSCRIBE,
    SUBSCRIBE_PATTERN,
    UNSUBSCRIBE_PATTERN,
    Packet,
)
from iodine_aio.pubsub.redis import RedisEngine
from iodine_aio.pubsub.worker_link import Link


def run_bridge(sock: socket.socket, url: str) -> None:
    """Carries messages between a hub and Redis, until the link ends or SIGTERM comes.

    What a process does that was forked for it. SIGINT is left to the parent.

    Args:
        sock: the other end is the hub's, added there with `bridge=True`.
        url: see `check_url`.

    Raises:
        UsageError: the URL is malformed, or redis-py is not installed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_bridge(sock, url))


async def _bridge(sock: socket.socket, url: str) -> None:
    ended = asyncio.Event()
    too_long = Losses(f"longer than {MAX_DATA_BYTES} bytes")

    def pass_on(message: Message) -> None:
        if len(message.data) > MAX_DATA_BYTES or len(message.channel) > MAX_CHANNEL_BYTES // 4:
            too_long.add()
        else:
            link.publish(message.channel, message.data)

    def receive(packet: Packet) -> None:
        kind, channel, data, _ = packet
        if data is not None:
            engine.publish(Message(channel, data))
        elif kind in (SUBSCRIBE, SUBSCRIBE_PATTERN):
            engine.subscribe(channel, kind == SUBSCRIBE_PATTERN)
        else:
            engine.unsubscribe(channel, kind == UNSUBSCRIBE_PATTERN)

    engine = RedisEngine(url, pass_on)
    link = Link(sock, receive, ended.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await link.open()
    await engine.open()
    await ended.wait()
    await engine.close()
    await link.close()
    too_long.tell()
