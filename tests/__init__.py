"""The tests, laid out as the package is, and what they share.

conftest.py, loops.py: async tests run on both loops; `run` does it for tests that are not async.
requests.py: the bytes of requests and handshakes, as clients send them.
frames.py: WebSocket frames, as clients send them.
clients.py: clients that read and write bytes, alone or with a server of their own.
sockets.py: the same for blocking sockets, where the server is another process.
handlers.py: small apps, handlers and bodies; some note what is done with them.
transports.py: a loop and a transport of no network and no time, for protocols alone.
integration/browser.py: a headless Chromium, for tests that take the fixture `browser`.
"""
