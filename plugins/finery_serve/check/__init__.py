"""`serve.check`: whether a running server prompts and answers as the model was trained.

Input: GGUFs, or a bundle, and rows with known answers. Output: metrics, and the faults that were
found, each with its name, its reason and its fix.
"""
