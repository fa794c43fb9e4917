"""Held-out rows and near copies of them.

In go rows to hold out, out come the other rows that give them away.
"""
