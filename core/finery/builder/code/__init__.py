"""The code of a step: which definitions its `run` can reach, and digests of them.

`parse` takes a file apart into definitions with the names that they read (`units`), without what
can't change an output (`counted`), and `shared` keeps the result. `names` follows names from file
to file, which `resolve` finds, and `reach` all names from a class. `steps` does that for the steps
of a recipe: in go classes, functions or modules, out come files with digests for the key.
"""
