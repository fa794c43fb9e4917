"""The model of a training: loaded, quantised, with its adapter, ready for a trainer.

In goes a `Model` artifact, out comes what TRL's trainers take.
"""
