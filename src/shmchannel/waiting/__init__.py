"""How a side waits for the other: in a thread, in an event loop, beside files."""
