"""What a training reports while it runs: progress, trackers, notes, and errors about resources.

None of it can change a model, so the training code refers to these modules only by name, and their
code is not part of any key.
"""
