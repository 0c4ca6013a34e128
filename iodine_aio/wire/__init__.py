"""What goes over the wire, as bytes and values: no asyncio, no socket, no clock."""
