"""Execution of steps.

An executor takes a `Task`, which is one step as plain data, and returns events and the manifests of
the outputs. `executor` is the contract, `local` runs worker processes on this machine, and `worker`
is such a process.
"""
