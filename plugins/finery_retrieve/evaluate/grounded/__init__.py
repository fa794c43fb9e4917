"""`eval.grounded`: answers with the right document, with retrieved ones, with others, with none.

In go questions, an index and models. Out come verdicts on each answer and what each context makes
of them.
"""
