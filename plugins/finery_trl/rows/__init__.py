"""Rows as tokens, each verified to teach the model what is used at inference.

Turns rows into token ids with loss on the answers, and decides the order in which a training takes
them. The notes about rows in `remarks` can't change a model, so they are outside of keys.
"""
