"""What a thread hands over is the response's own: its app may write to its lists at once."""

from typing import Any

import pytest

from iodine_aio.apps.threads import Delivery, PlainDelivery, ThreadedBody
from iodine_aio.apps.wsgi import WSGIDelivery
from iodine_aio.settings import Settings


class Desk:
    """A server whose loop does not come to it yet."""

    def __init__(self) -> None:
        self.results: list[Any] = []

    def post(self, function: Any, *args: Any) -> bool:
        if args:
            self.results.append(args[1])
        return True


def result_of(kind: type[Delivery], app: Any) -> Any:
    desk = Desk()
    kind(desk, Settings()).respond(app, {"REQUEST_METHOD": "GET"})  # type: ignore[arg-type]
    (result,) = desk.results
    return result


@pytest.mark.parametrize("pieces", [[b"a"], [b"a", b"b"], []])
def test_lists_of_a_wsgi_app_are_copied(pieces: list[bytes]):
    """PEP 3333 does not say that they are the server's."""
    headers, body = [("X", "1")], list(pieces)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", headers)
        return body

    status, said, sent = result_of(WSGIDelivery, app)
    headers[:] = [("X", "2")]
    body[:] = [b"other"]

    assert (status, list(said)) == ("200 OK", [("X", "1")])
    assert b"".join([sent] if isinstance(sent, bytes) else sent) == b"".join(pieces)


@pytest.mark.parametrize("way", ["yields", "writes"])
def test_headers_of_a_wsgi_app_are_copied_where_its_body_is_streamed(way: str):
    headers = [("X", "1")]

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", headers)
        if way == "writes":
            write(b"a")
            headers[:] = [("X", "2")]
            return []
        return generate()

    def generate() -> Any:
        yield b"a"
        headers[:] = [("X", "2")]
        yield b"b"

    _, said, body = result_of(WSGIDelivery, app)

    assert type(body) is ThreadedBody
    assert list(said) == [("X", "1")]


@pytest.mark.parametrize("kind", [dict, list])
@pytest.mark.parametrize("outer", [tuple, list])
def test_headers_and_body_of_a_plain_app_are_copied(kind: Any, outer: Any):
    headers, body = kind([("X", "1")]), [b"a", b"b"]
    returned = outer((200, headers, body))

    status, said, sent = result_of(PlainDelivery, lambda env: returned)
    headers.clear()
    body.clear()
    if outer is list:
        returned[0] = 500

    assert (status, kind(said)) == (200, kind([("X", "1")]))
    assert b"".join(sent) == b"ab"


@pytest.mark.parametrize("view", [bytearray, lambda data: memoryview(bytearray(data))])
def test_bytes_that_may_change_are_copied(view: Any):
    body = view(b"abc")

    _, _, sent = result_of(PlainDelivery, lambda env: (200, {}, body))
    body[:] = b"xyz"

    assert sent == b"abc"


def test_headers_of_a_plain_app_are_copied_where_its_body_is_streamed():
    headers = {"X": "1"}

    def generate() -> Any:
        yield b"a"
        headers["X"] = "2"

    _, said, _ = result_of(PlainDelivery, lambda env: (200, headers, generate()))

    assert said == {"X": "1"}
