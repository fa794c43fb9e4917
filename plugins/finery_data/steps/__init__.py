"""The step types of this plugin, one module each.

Input: files or data sets and settings. Output: data sets.
"""
