"""A Hugging Face folder into a GGUF, by llama.cpp's converter.

In goes a saved model, which `configuration` and `vocabulary` complete with what the converter reads
and transformers no longer saves; out comes the file that `converter` makes of it.
"""
