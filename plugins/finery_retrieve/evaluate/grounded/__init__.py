"""`eval.grounded`: answers with the right document, with retrieved ones, with others, and with
none.

Input: questions, an index and models. Output: verdicts on each answer, and the effect of each
context.
"""
