"""Messages: what becomes of them on the wire."""

import pytest

from iodine_aio.pubsub.message import Message


def test_message_is_encoded_once_a_kind():
    """All who take the same kind get the same object."""
    message = Message("room", "hä")

    assert message.websocket_frame == b"\x81\x03h\xc3\xa4"
    assert message.websocket_frame is message.websocket_frame
    assert message.raw == b"h\xc3\xa4"
    assert message.raw is message.raw
    assert message.event == b"data: h\xc3\xa4\n\n"
    assert message.event is message.event


def test_bytes_are_binary():
    """And raw connections get the object that was published."""
    data = b"\xff\x00"
    message = Message("room", data)

    assert message.websocket_frame == b"\x82\x02\xff\x00"
    assert message.raw is data


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\rb"])
def test_event_has_a_line_for_each_line(text):
    """Else what is behind the end of a line would be a field, or another event."""
    assert Message("room", text).event == b"data: a\ndata: b\n\n"
