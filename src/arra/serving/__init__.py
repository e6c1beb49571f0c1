"""Drawing for many at once: the engine that fuses requests, the server and its page."""
