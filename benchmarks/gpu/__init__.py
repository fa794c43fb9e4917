"""The command `make gpu-check`: what finery does on a GPU, through recipes built as users do.

`checks` holds the checks, `catalog` orders them, `runner` runs each in a process of its own with a
time limit, and `report` makes the table. `project`, `models` and `rows` make what is built.
`wheels` and `sizes` are commands of their own.
"""
