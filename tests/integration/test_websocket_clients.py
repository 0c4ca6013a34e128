"""WebSockets as the clients of others see them: aiohttp and websockets."""

import asyncio

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus

import iodine_aio


class Chat:
    """Echoes; closes, breaks or counts when told so."""

    def on_message(self, data):
        if data == "close":
            self.close(4000, "as you said")
        elif data == "break":
            raise RuntimeError("as you said")
        elif data == "count":
            self.write(str(self.count))
        else:
            self.write(data)


def app(env):
    """A chat under /chat, a veto under /no, else HTTP."""
    if env["PATH_INFO"] == "/chat":
        env["upgrade.websocket"] = Chat
        headers = [("Set-Cookie", "seen=1")]
        if "HTTP_SEC_WEBSOCKET_PROTOCOL" in env:
            headers.append(("Sec-WebSocket-Protocol", "chat"))
        return 0, headers, None
    if env["PATH_INFO"] == "/no":
        env["upgrade.websocket"] = Chat
        return 401, {}, "who are you"
    return 200, {}, "plain"


def address(server, path="/chat"):
    """The WebSocket URL of a path."""
    return f"ws://127.0.0.1:{server.port}{path}"


async def test_websockets_client_echoes_text_binary_and_large():
    """Up to the limit of 256 KiB, fragmented too."""
    async with (
        iodine_aio.serve(app, port=0) as server,
        connect(address(server), proxy=None) as client,
    ):
        for message in ("zo\xeb", b"\x00\xff", "", b"", "x" * 262144):
            await client.send(message)
            assert await client.recv() == message

        await client.send(["frag", "men", "ted"])
        assert await client.recv() == "fragmented"


async def test_websockets_client_that_offers_compression_gets_none():
    """It is not available: no extension is in the answer."""
    async with (
        iodine_aio.serve(app, port=0) as server,
        connect(address(server), proxy=None, compression="deflate") as client,
    ):
        assert "Sec-WebSocket-Extensions" not in client.response.headers


async def test_websockets_client_gets_cookie_and_subprotocol():
    """What the app chose."""
    async with (
        iodine_aio.serve(app, port=0) as server,
        connect(address(server), proxy=None, subprotocols=["other", "chat"]) as client,
    ):
        assert client.subprotocol == "chat"
        assert client.response.headers["Set-Cookie"] == "seen=1"


async def test_websockets_client_pings():
    """And is answered."""
    async with (
        iodine_aio.serve(app, port=0) as server,
        connect(address(server), proxy=None) as client,
    ):
        latency = await (await client.ping(b"payload"))

        assert latency >= 0


async def test_websockets_client_closes_cleanly():
    """Its code comes back."""
    async with iodine_aio.serve(app, port=0) as server:
        client = await connect(address(server), proxy=None)
        await client.close(4001, "bye")

        assert client.close_code == 4001


async def test_websockets_client_hears_our_code_and_reason():
    """Of a close by the handler."""
    async with (
        iodine_aio.serve(app, port=0) as server,
        connect(address(server), proxy=None) as client,
    ):
        await client.send("close")
        with pytest.raises(ConnectionClosedError) as caught:
            await client.recv()

        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "as you said")


async def test_websockets_client_hears_1011_and_others_nothing(caplog):
    """Of a handler that raised."""
    async with (
        iodine_aio.serve(app, port=0) as server,
        connect(address(server), proxy=None) as broken,
        connect(address(server), proxy=None) as other,
    ):
        await broken.send("break")
        with pytest.raises(ConnectionClosedError) as caught:
            await broken.recv()
        await other.send("count")

        assert caught.value.rcvd.code == 1011
        assert await other.recv() in ("1", "2")
    assert [r.name for r in caplog.records if r.levelname == "ERROR"] == ["iodine_aio.error"]


async def test_websockets_client_hears_1009_of_a_message_too_long():
    """By one byte."""
    async with (
        iodine_aio.serve(app, port=0, max_message_bytes=1000) as server,
        connect(address(server), proxy=None) as client,
    ):
        await client.send(bytes(1000))
        assert await client.recv() == bytes(1000)

        await client.send(bytes(1001))
        with pytest.raises(ConnectionClosedError) as caught:
            await client.recv()
        assert caught.value.rcvd.code == 1009


async def test_websockets_client_hears_1001_at_the_stop():
    """Going away is a clean end."""
    async with iodine_aio.serve(app, port=0) as server:
        client = await connect(address(server), proxy=None)
    with pytest.raises(ConnectionClosedOK) as caught:
        await client.recv()

    assert caught.value.rcvd.code == 1001


@pytest.mark.parametrize(("path", "status"), [("/no", 401), ("/plain", 200)])
async def test_websockets_client_is_told_the_status_of_a_refusal(path, status):
    """The app's own response."""
    async with iodine_aio.serve(app, port=0) as server:
        with pytest.raises(InvalidStatus) as caught:
            await connect(address(server, path), proxy=None)

        assert caught.value.response.status_code == status


async def test_fifty_websockets_clients_at_once():
    """Each gets its own messages, in order."""
    async with iodine_aio.serve(app, port=0) as server:

        async def converse(i):
            async with connect(address(server), proxy=None) as client:
                for j in range(20):
                    await client.send(f"{i} {j}")
                return [await client.recv() for _ in range(20)]

        answers = await asyncio.gather(*(converse(i) for i in range(50)))

        assert answers == [[f"{i} {j}" for j in range(20)] for i in range(50)]


async def test_aiohttp_client_echoes_and_goes_on_with_http():
    """The same session, both protocols."""
    async with iodine_aio.serve(app, port=0) as server, aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{server.url}/chat", compress=15) as client:
            await client.send_str("zo\xeb")
            assert await client.receive_str() == "zo\xeb"
            await client.send_bytes(b"\x00\xff")
            assert await client.receive_bytes() == b"\x00\xff"
        async with session.get(f"{server.url}/plain") as response:
            assert await response.text() == "plain"


async def test_aiohttp_client_hears_our_code():
    """Of a close by the handler."""
    async with (
        iodine_aio.serve(app, port=0) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/chat") as client,
    ):
        await client.send_str("close")
        message = await client.receive()

        assert message.type is aiohttp.WSMsgType.CLOSE
        assert client.close_code == 4000


async def test_aiohttp_client_gets_426_without_an_upgrade():
    """With the version to come back with."""
    async with (
        iodine_aio.serve(app, port=0) as server,
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}/chat") as response,
    ):
        assert response.status == 426
        assert response.headers["Sec-WebSocket-Version"] == "13"


@pytest.mark.slow
async def test_websockets_client_that_only_answers_pings_stays():
    """Over many of our pings."""
    async with (
        iodine_aio.serve(app, port=0, ping_interval=0.05) as server,
        connect(address(server), proxy=None, ping_interval=None) as client,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.recv()
        await client.send("still here")

        assert await client.recv() == "still here"
