"""Judges: a model that scores answers or compares two.

The input is a row and a rubric. The output is a score or a preference, or the reason why there is
none.
"""
