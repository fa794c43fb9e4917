"""`eval.retrieval`: the ranks at which indices retrieve the right chunk.

Input: questions and indices. Output: recall, reciprocal rank and discounted gain, with intervals.
"""
