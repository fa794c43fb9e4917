"""How rows are answered at the same time.

In go the prompts of rows, as they come; out come raw answers, as they end: from llama.cpp's library
in this process (`slots`), or from a llama.cpp server (`remote`).
"""
