"""Checks of generated rows: form, content, tool calls, and copies of other rows.

In goes a candidate row, out comes what each check found.
"""
