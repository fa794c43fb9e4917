"""JSON Schemas for editors: what they complete, check and show while a recipe is being written.

`schema` makes the schema of all recipes from the installed step types. `names` adds the steps,
outputs and metrics of one recipe. `files` keeps a schema file next to a recipe up to date.
"""
