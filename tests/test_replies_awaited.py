"""A response that is still to come, and is awaited."""

import asyncio
from typing import Any

import aiohttp
import pytest

import iodine_aio
from iodine_aio.replies import Reply


async def wait_for(reply: Reply) -> Any:
    return await reply


async def test_reply_can_be_awaited_before_it_is_there():
    """Who stands between the app and the connection waits for it."""
    reply = Reply()
    waiting = asyncio.create_task(wait_for(reply))
    await asyncio.sleep(0)
    reply.set_result((200, [], b"late"))

    assert await waiting == (200, [], b"late")


async def test_reply_that_is_there_is_not_waited_for():
    """No turn of the loop is lost."""
    reply = Reply()
    reply.set_result((200, [], b"early"))

    assert await reply == (200, [], b"early")


async def test_error_of_a_reply_comes_to_who_awaits_it():
    """Before and after it is there."""
    reply = Reply()
    waiting = asyncio.create_task(wait_for(reply))
    await asyncio.sleep(0)
    reply.set_exception(ValueError("broken"))

    with pytest.raises(ValueError, match="broken"):
        await waiting
    with pytest.raises(ValueError, match="broken"):
        await reply


async def test_reply_nobody_waits_for_any_more_is_cancelled():
    """The client has gone: its app hears of it."""
    reply = Reply()
    waiting = asyncio.create_task(wait_for(reply))
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert reply.cancelled()


async def test_page_of_a_browser_app_stands_in_for_what_an_asgi_app_does_not_know(tmp_path):
    """--spa beside an app whose response comes later than its call."""
    (tmp_path / "index.html").write_text("the page")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("no lifespan")
        await receive()
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"unknown"})

    async with (
        iodine_aio.serve(app, port=0, public=tmp_path, spa="index.html") as server,
        aiohttp.ClientSession(headers={"Accept": "text/html"}) as session,
        session.get(f"{server.url}/some/place") as response,
    ):
        answer = response.status, await response.text()

    assert answer == (200, "the page")
