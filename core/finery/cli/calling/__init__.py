"""How commands are called: which word names the recipe, which a step, what a shell completes.

In go the words of a command line, out come the file of a recipe and names of steps. Nothing here
reads more of a recipe than the names of its steps.
"""
