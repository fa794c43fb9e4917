"""Judges: a model that scores answers or compares two.

In go a row and a rubric, out comes a score or a preference, or the reason why there is none.
"""
