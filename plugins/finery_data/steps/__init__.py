"""The step types of this plugin, one module each.

Each takes data sets and settings from a recipe and writes one data set or several.
"""
