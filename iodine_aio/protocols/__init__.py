"""asyncio protocols: exactly one of these objects serves a connection."""
