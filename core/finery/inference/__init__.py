"""Answers from models, whatever their format.

Plugins implement `engine`; `cache` adds the record cache and a budget to one. The input is
conversations, the output completions, each stored in `records` as soon as it exists.
"""
