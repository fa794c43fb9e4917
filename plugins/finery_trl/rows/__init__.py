"""Rows to tokens, with proof that a model can learn from them what it will be asked.

In go rows and a tokenizer, out come token ids with loss where the answer is.
"""
