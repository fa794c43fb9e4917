"""A row's story: where it comes from, and what each step did with it.

`story` follows ids and parents through the artifacts of a build; `scan` finds the lines about a
row fast. In goes a row's id, out comes every event of the row and of its relatives.
"""
