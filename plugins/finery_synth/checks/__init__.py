"""Checks of answers and of the rows in them: format, content, tool calls, and duplicates.

The input is an answer or a candidate row. The output is the results of the checks. `settings` is
the `checks:` part of a recipe.
"""
