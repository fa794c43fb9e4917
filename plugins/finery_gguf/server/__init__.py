"""A running llama.cpp server: the user's llama-server, or that of the wheel xllamacpp.

In goes a GGUF; out comes the address of a server on this machine, which ends with the `with` that
started it, and also if this process is killed. `start` is public for other plugins.
"""

from finery_gguf.server.start import Server, start

__all__ = ["Server", "start"]
