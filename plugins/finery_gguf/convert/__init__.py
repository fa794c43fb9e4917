"""A Hugging Face folder into a GGUF, by llama.cpp's converter.

Input: a saved model, which `folder` completes with what the converter reads and transformers no
longer saves. Output: the file that `converter` makes of it.
"""
