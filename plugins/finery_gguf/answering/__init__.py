"""Answering several rows at the same time.

Input: the prompts of rows, one by one. Output: raw answers, in the order in which they finish. They
come from llama.cpp's library in this process (`slots`) or from a llama.cpp server (`remote`).
"""
