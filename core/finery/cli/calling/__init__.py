"""How commands are called: which word names the recipe, which a step, what a shell completes.

In go the words of a command line and what lies in the working directory, out come a recipe's file
and names of steps. Nothing here reads more of a recipe than the names of its steps.
"""
