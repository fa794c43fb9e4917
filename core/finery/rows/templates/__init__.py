"""Jinja templates and expressions of recipes, in a sandbox with limits on size and time.

In goes a template's text and a row's texts, out comes a text, or a `BadRow` that says what is
wrong.
"""
