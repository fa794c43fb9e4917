"""Plugins: how finery finds them, the hooks they implement, and their notes on a recipe.

`hookspecs` has every hook, `manager` loads plugins and resolves their names. `notes`, `history` and
`forecasts` are the basis of advice and estimates. In go entry points and files beside a recipe, out
come step types and engines.
"""
