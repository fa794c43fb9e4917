"""One training run: from examples to checkpoints to the bytes that ship.

In go prepared rows and a model, out comes a `Model` artifact with its curve.
"""
