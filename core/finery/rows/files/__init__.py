"""The files that artifacts of finery's own kinds consist of.

`writing` and `reading` are the rows of a `Dataset`, `metrics` the files of `Metrics`. What writes a
kind is in the key of every step that makes one, what reads it in that of every step that takes
one: the kinds name these modules.
"""
