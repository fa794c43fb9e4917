"""Embedding models: a folder, a wheel or a server.

In go texts. Out come vectors of length 1, one for each text, which don't depend on the other texts.
"""
