"""The code of a step: which files it is in, and a digest of each.

`follow` walks from a class or function through its imports, `resolve` finds the file that an import
reads, `parse` reads one file, and `counted` takes out of it what can't change an output. In go
classes, functions and modules; out come the files that count, with digests for the step's key.
"""
