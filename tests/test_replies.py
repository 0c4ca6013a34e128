"""Responses that are still to come."""

import asyncio

import pytest

from iodine_aio.replies import Reply


def test_listener_is_told_within_the_call_that_answers():
    """Not in the loop's next turn; there need be no loop."""
    told: list[Reply] = []
    reply = Reply()
    reply.add_done_callback(told.append)
    reply.set_result((200, {}, b""))

    assert told == [reply]
    assert reply.done()
    assert reply.result() == (200, {}, b"")


def test_failure_is_an_end_without_an_answer():
    """As of a future."""
    told: list[Reply] = []
    error = ZeroDivisionError()
    reply = Reply()
    reply.add_done_callback(told.append)
    reply.set_exception(error)

    assert (told, reply.exception(), reply.cancelled()) == ([reply], error, False)


def test_reply_is_cancelled_while_it_is_to_come():
    """What was answered stays answered, and nobody is told twice."""
    told: list[Reply] = []
    cancelled, answered = Reply(), Reply()
    for reply in (cancelled, answered):
        reply.add_done_callback(told.append)
    answered.set_result((200, {}, b""))
    for reply in (cancelled, answered):
        reply.cancel()

    assert (cancelled.cancelled(), answered.cancelled()) == (True, False)
    assert told == [answered, cancelled]


def test_result_of_what_failed_raises():
    """As that of a future does."""
    failed, cancelled = Reply(), Reply()
    failed.set_exception(KeyError("x"))
    cancelled.cancel()

    with pytest.raises(KeyError):
        failed.result()
    with pytest.raises(asyncio.CancelledError):
        cancelled.result()
