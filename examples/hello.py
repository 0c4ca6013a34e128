"""Says hello. Run it by `python -m iodine_aio examples/hello.py`, or as a program."""

import iodine_aio


def app(env: iodine_aio.Env) -> tuple[int, dict[str, str], str]:
    return 200, {"Content-Type": "text/plain; charset=utf-8"}, "Hello, World!\n"


if __name__ == "__main__":
    iodine_aio.run(app)
