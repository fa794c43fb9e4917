"""A row's story: where it comes from, and what each step did with it.

`story` follows ids and parents through the artifacts of a build; `scan` finds the lines about a
row fast. Input: a row's id. Output: every event of the row and of its relatives.
"""
