"""Conversion of a Hugging Face folder to GGUF with llama.cpp's converter.

Input: a saved model. `folder` adds what the converter reads but transformers no longer saves.
Output: the GGUF file that `converter` writes.
"""
