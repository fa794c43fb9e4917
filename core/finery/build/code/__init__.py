"""The code of a step: which files it is in, and a digest of each.

`follow` walks from a class or function through its imports, `resolve` finds the file that an import
reads, `parse` reads one file, and `counted` removes what can't change an output. Given classes,
functions or modules, they return files with digests for the step's key.
"""
