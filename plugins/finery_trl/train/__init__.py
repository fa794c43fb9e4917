"""One training run, from verified rows to checkpoints to the final model.

What can change the model is part of the key of every training. The code that only `watch` or
`launch` need is part of the key of the trainings that use them. Checks, messages and progress are
outside of keys.
"""
