"""Quantisation of a 16-bit GGUF, with or without an importance matrix.

In go the converted model and, for the matrix, training rows: `calibration` renders them,
`activations` reads what the weights are multiplied by while llama.cpp evaluates them, `importance`
adds it up. `quantise` writes a file of another type with it.
"""
