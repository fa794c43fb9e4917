"""The output of a training: checkpoints while it runs, then the weights and their README."""
