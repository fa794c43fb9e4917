"""Recipes: from a YAML file to a checked, typed graph of steps.

`document` reads the file and records the position of each part. `schema` and `validate` check it
against the step types. `graph` connects the steps. Every mistake becomes an error with file, line
and fix.
"""
