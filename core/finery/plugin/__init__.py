"""Plugins: how finery finds them, the hooks they implement, and their notes on a recipe.

`hookspecs` has every hook, `manager` loads plugins and resolves their names. `notes`, `history` and
`forecasts` are the basis of advice and estimates. Input: entry points, and files next to a recipe.
Output: step types and engines.
"""
