"""Streams under a real ASGI server, ended in every way: charged what was consumed, nothing left held."""
