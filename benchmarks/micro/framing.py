"""Nanoseconds of each step of WebSocket framing.

Run by `python benchmarks/micro/framing.py`; the best of five runs counts.
"""

import sys
import timeit
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from iodine_aio.wire.frames import BINARY, TEXT, encode_frame
from iodine_aio.wire.masking import unmask
from iodine_aio.wire.messages import MessageReader

KEY = b"\x12\x34\x56\x78"


def masked(frame: bytes) -> bytes:
    """The frame as a client sends it."""
    head = {126: 4, 127: 10}.get(frame[1], 2)
    return bytes((frame[0], 0x80 | frame[1])) + frame[2:head] + KEY + unmask(frame[head:], KEY)


def report(name: str, operation: Callable[[], object]) -> None:
    """Time one operation and print a line."""
    timer = timeit.Timer(operation)
    count, seconds = timer.autorange()
    count = max(1, int(count * 0.1 / seconds))
    best = min(timer.repeat(repeat=5, number=count)) / count
    print(f"{name:<44}{best * 1e9:>12,.0f} ns")


def main() -> None:
    print(f"Python {sys.version.split()[0]}")
    for size in (0, 16, 125, 1024, 65536):
        payload = b"x" * size
        report(f"encode_frame, {size} bytes", lambda p=payload: encode_frame(BINARY, p))
    for size in (8, 32, 125, 512, 767, 768, 1024, 16384, 65536, 1 << 20):
        payload = b"x" * size
        report(f"unmask, {size} bytes", lambda p=payload: unmask(p, KEY))

    feed = MessageReader(max_message_bytes=1 << 20, max_fragments=4096).feed
    text = masked(encode_frame(TEXT, b"x" * 16))
    binary = masked(encode_frame(BINARY, b"x" * 16))
    large = masked(encode_frame(BINARY, b"x" * 65536))
    fragments = masked(encode_frame(TEXT, b"x" * 16, fin=False)) + masked(
        encode_frame(0, b"x" * 16)
    )
    halves = large[:32768], large[32768:]
    report("feed, 1 text frame of 16 bytes", lambda: feed(text))
    report("feed, 1 binary frame of 16 bytes", lambda: feed(binary))
    report("feed, 16 text frames of 16 bytes", lambda: feed(text * 16))
    report("feed, 1 text message in 2 fragments", lambda: feed(fragments))
    report("feed, 1 binary frame of 64 KiB", lambda: feed(large))
    report("feed, the same in 2 reads", lambda: (feed(halves[0]), feed(halves[1])))


if __name__ == "__main__":
    main()
