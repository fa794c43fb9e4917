"""The commands that hold builds against each other, and what they print.

In go a recipe and the runs or revisions that are named, out come lists, differences and a page.
"""
