"""Fixes for mistakes in recipes: what to write instead of what is there.

Used only once a mistake is certain: nothing here decides whether a recipe is right. `aliases` reads
what plugins know about other tools. `names` is about unknown settings, sections and step types,
`values` about values of the wrong type, `references` about names of steps.
"""
