"""`eval.retrieval`: the ranks at which indices retrieve the right chunk.

In go questions and indices. Out come recall, reciprocal rank and discounted gain, with intervals.
"""
