"""What `finery plan` says of trainings: parameters, memory and time, without torch.

The graph and what is built come in. Estimates go out. They can change no model, and no step type
imports this package.
"""
