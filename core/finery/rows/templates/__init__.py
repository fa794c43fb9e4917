"""Jinja templates and expressions of recipes, in Jinja's sandbox, with limits on time and memory.

Input: a template's text and a row's texts. Output: a text, or a `BadRow` that says what is wrong.
"""
