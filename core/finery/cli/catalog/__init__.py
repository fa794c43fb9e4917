"""A catalogue of plugins: a static site with what each provides and whether it passes its checks.

`collect` installs each distribution of a list in an environment of its own and runs processes
there: `finery plugins --check`, `probe`, which writes what its plugins provide as JSON, and pytest
with the contracts that it ships, or with those of `contracts`. `pages` writes the site.
"""
