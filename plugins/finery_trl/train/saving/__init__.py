"""What a training leaves: checkpoints while it runs, then the weights and their README."""
