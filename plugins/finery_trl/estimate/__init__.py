"""Estimates of trainings for `finery plan`: parameters, memory and time, without torch.

They can't change a model, so no step type imports this package.
"""
