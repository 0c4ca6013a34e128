"""An echo server without HTTP.

Run `python examples/telnet_echo.py [port]`, then `telnet 127.0.0.1 3000` and type. The line
`bye` ends the connection.
"""

import re
import sys
import time

import iodine_aio


# an echo protocol with asynchronous notifications.
class EchoProtocol(iodine_aio.Protocol):  # any class will do; the base is for type checkers
    def on_open(self) -> None:
        self.timeout = 300  # seconds of silence; it is closed then

    def on_message(self, buffer: bytes) -> None:
        # writing will never block.
        self.write(buffer)
        # close will be performed only once all the data in the write buffer
        # was sent. use `force_close` to close early.
        if re.search(rb"^bye[\r\n]", buffer, re.I | re.M):
            self.close()

        # run asynchronous tasks with ease
        def notify() -> None:
            time.sleep(1)
            print(f"Echoed data: {buffer!r}", flush=True)

        self.run(notify)


if __name__ == "__main__":
    # listen on port 3000 for the echo protocol.
    iodine_aio.listen(int(sys.argv[1]) if len(sys.argv) > 1 else 3000, EchoProtocol)
    iodine_aio.threads = 1
    iodine_aio.processes = 1
    iodine_aio.run()
