"""One training run, from verified rows to checkpoints to the final model.

All of this can change the model, so it is part of the key of every training. The code that only
`watch` or `launch` need is part of the key of the trainings that use them.
"""
