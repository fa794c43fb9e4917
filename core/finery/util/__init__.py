"""Small helpers that belong to no other layer: text, files, paths, canonical bytes, this machine.

They know nothing of recipes, steps or stores, and import only each other.
"""
