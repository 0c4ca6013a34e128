"""A folder of files served by aiohttp.

python files_aiohttp.py PORT FOLDER
"""

import sys

from aiohttp import web


def serve(port, folder):
    app = web.Application()
    app.router.add_static("/", folder)
    web.run_app(
        app, host="127.0.0.1", port=port, print=None, access_log=None, handler_cancellation=False
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
