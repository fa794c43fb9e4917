"""Writes core/finery/builder/code/definitions.json: the code that finery's own steps can reach.

`parse` takes a file apart into definitions with the names that they read, without what can't change
an output (`counted`). `sources` finds what a name refers to, `refused` names what can't be
followed, `reach` follows names from a class, and `table` does that for all of finery.
"""
