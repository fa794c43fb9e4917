"""Held-out rows, and which other rows nearly repeat them.

In go rows to hold out, out come the other rows that give them away.
"""
