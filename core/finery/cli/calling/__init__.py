"""Interpretation of command lines: which word names the recipe, which a step, and completion.

Input: the words of a command line. Output: the path of a recipe and names of steps. Of a recipe,
nothing here reads more than the names of its steps.
"""
