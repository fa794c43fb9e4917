"""Output of commands about a matrix: `table` prints its variants, best first.

The scores and the folding of variants come from `finery.compare`.
"""
