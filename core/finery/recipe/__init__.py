"""Recipes: from a YAML file to a checked, typed graph of steps.

`document` reads the file and knows where each part stands, `schema` and `validate` check it
against the step types, `graph` connects the steps. Every mistake comes out as an error with file,
line and fix.
"""
