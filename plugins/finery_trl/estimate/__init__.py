"""What `finery plan` says of trainings: parameters, memory and time, without torch.

In go the graph and what is built, out come estimates. No step type imports this package.
"""
