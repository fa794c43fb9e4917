"""The checks, one file a group: functions that take a `Place` and return what they measured.

They raise `Failed` if finery or a library does something else than it should, and `Missing` if the
machine lacks what they need.
"""
