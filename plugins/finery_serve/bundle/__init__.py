"""`llama.bundle`: a folder that runs a GGUF in llama.cpp's server, for someone without finery.

In goes a GGUF; out comes a folder with the file, the exact command, a compose file, an entry for
llama-swap, a client and a README.
"""
