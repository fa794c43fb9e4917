"""Evaluations on the report of a build: first answers, scores with tests, all answers with filters.

In go `Metrics` and the graph, out come findings and a section of the page.
"""
