"""The checks of `make gpu-check`: what finery does on a GPU, through recipes built as users do.

One file holds a group of checks, `catalog` orders them, `runner` runs each in a process of its own
with a time limit, and `report` makes the table. `python benchmarks/gpu --help` says how to run it.
"""
