"""FastAPI's own first example, for ASGI servers."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def hello():
    """Answer with the 13 bytes all servers here answer with, in JSON."""
    return {"message": "Hello, World!"}
