"""One training run: from proven rows to checkpoints to the bytes that ship.

A step with its settings, rows and model comes in. A `Model` artifact with its curve goes out. All
of this can change the model, so it is in the key of every training; what only `watch` or `launch`
need is in the key of the trainings that use them.
"""
