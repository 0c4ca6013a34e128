"""Flask's own first example, for WSGI servers."""

from flask import Flask

app = Flask(__name__)


@app.route("/")
def hello():
    """Answer with the 13 bytes all servers here answer with."""
    return "Hello, World!"
