"""`serve.check`: whether a running server prompts and answers as the model was trained.

In go GGUFs, or a bundle, and rows with known answers; out come metrics, and the faults that were
found, each with its name, its reason and its fix.
"""
