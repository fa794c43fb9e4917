"""JSON Schemas for editors: what they complete, check and show of a recipe while it is written.

`schema` makes the schema of all recipes from the step types that are installed; `names` adds the
steps, outputs and metrics of one recipe; `files` keeps a schema file beside a recipe up to date.
"""
