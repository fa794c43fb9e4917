"""The step types of this plugin, one module each, over one base with `run`.

A recipe's settings, its rows and its model come in. A trained `Model` goes out. Public for other
plugins, whose step types may derive from these.
"""
