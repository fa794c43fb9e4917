"""Embedding models: a folder, a wheel or a server.

Input: texts. Output: vectors of length 1, one for each text, which don't depend on the other texts.
"""
