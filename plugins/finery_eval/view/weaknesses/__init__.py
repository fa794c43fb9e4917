"""Where a model is weak: the cheap baselines that it doesn't beat, and its wrong answers.

In go the report and predictions of an evaluator, out come remarks, and records to look at or label.
"""
