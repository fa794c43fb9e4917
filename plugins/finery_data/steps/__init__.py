"""The step types of this plugin, one module each.

In go files or data sets and settings, out come data sets.
"""
