"""Checks of generated rows: format, content, and how similar they are.

The input is a candidate row. The output is the results of the checks. `settings` is
the `checks:` part of a recipe.
"""
