"""Answers from models, whatever their format.

`engine` is what plugins implement; `cache` puts the record cache and a budget in front of one. In
go conversations, out come completions, each kept in `records` as soon as it exists.
"""
