"""Builds held against each other: what was built when, and what differs between two states.

In go the records of runs, git revisions and the present recipe, out come headline metrics, results
and differences as plain data. The views of plugins say what differs in an artifact.
"""
