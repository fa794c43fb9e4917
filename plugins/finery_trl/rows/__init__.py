"""Rows in tokens, each proven to teach the model what it is asked at inference.

Rows and a tokenizer come in. Token ids with loss on the answers go out, and the order in which a
training takes them. What a log and `finery check --deep` say of rows (`summary`, `control`) can't
change a model: trainings reach it by name only.
"""
