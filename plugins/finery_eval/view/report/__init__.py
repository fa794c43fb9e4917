"""Evaluations on the report of a build: first answers, scores with tests, all answers with filters.

Input: `Metrics` and the graph. Output: findings and a section of the page.
"""
