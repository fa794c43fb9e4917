"""Tasks in several steps: calls of models are executed by the functions of a recipe.

In go rows and the functions, out come the states and answers in which models end, held against
those of the rows. The functions run in a process of their own, `function_host`.
"""
