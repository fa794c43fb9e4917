"""The commands that hold builds against each other, and what they print.

Input: a recipe and the runs or revisions that are named. Output: lists, differences and a page.
"""
