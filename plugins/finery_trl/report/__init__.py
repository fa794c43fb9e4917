"""What a training reports while it runs: its progress, trackers, notes, and what it ran out of.

The settings of a training and what it measures come in. Metrics, lines of a log, trackers' files
and errors in words go out. None of it can change a model, so the code that trains reaches these
modules by name only, and their code is in no step's key.
"""
