"""Plugins: how they are found, what they may implement, and what they say about a recipe.

`hookspecs` has every hook, `manager` loads plugins and resolves their names. `notes`, `history` and
`forecasts` are what advice and estimates are made of. In go entry points and files beside a recipe,
out come step types and engines.
"""
