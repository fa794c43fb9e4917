"""What commands print of a matrix: the table of its variants, and many variants in few lines.

`scores` reads what the evaluators say of each variant, `table` prints it, `fold` puts the variants
of a step into one line of a list.
"""
