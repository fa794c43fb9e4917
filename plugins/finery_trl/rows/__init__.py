"""Rows as tokens, each verified to teach the model what is used at inference.

Turns rows into token ids with loss on the answers. What only refuses or describes rows (`faults`,
`remarks`) can't change a model, so it is outside of keys.
"""
