"""Checks of answers and of the rows in them: form, content, tool calls, and copies of other rows.

In goes an answer or a candidate row, out come the results of the checks. `settings` is what a
recipe writes under `checks:`.
"""
