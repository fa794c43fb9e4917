"""Answers read strictly: JSON values, their schema, and classes or fields in a text.

Generators and evaluators read answers by the same rules. In goes an answer's text, out come
values, or the reason why it can't be read.
"""
