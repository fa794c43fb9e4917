"""Conversations of several turns: led by a model itself, and scored where turns aren't independent.

In go the turns of rows and the answers of models, out come conversations and intervals over rows.
"""
