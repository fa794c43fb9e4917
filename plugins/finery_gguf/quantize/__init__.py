"""Quantisation of a 16-bit GGUF, with or without an importance matrix.

Input: the converted model and, for the matrix, training rows. `calibration` renders them,
`activations` reads what the weights are multiplied by while llama.cpp evaluates them, and
`importance` adds it up. Output: a file of another type, which `quantise` writes.
"""
