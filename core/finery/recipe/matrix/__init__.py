"""`matrix:` variants of a recipe, as ordinary steps.

`axes` reads the block and lists the variants. `expand` turns a recipe into one with a step for each
variant that differs, and `choose` adds the steps that pick one of them (`select:`). What comes out
is a recipe like any other, so everything after it knows steps only.
"""
