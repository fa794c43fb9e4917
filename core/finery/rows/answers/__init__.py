"""Answers read strictly: JSON values, their schema, and classes or fields in a text.

Generators and evaluators read answers by the same rules. Input: an answer's text. Output: values,
or the reason why it can't be read.
"""
