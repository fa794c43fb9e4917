"""From judged answers to scores: intervals, and the difference of every two models.

In go the verdicts on each row and which rows belong together, out come the scores and comparisons
that `metrics.json` holds. Rows of one group, e.g. paraphrases of one row, count together.
"""
