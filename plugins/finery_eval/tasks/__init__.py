"""Tasks in several steps: a recipe's functions execute the calls of models.

Input: rows and functions. Output: the final states and answers of models, compared with those of
the rows. The functions run in a separate process, `function_host`.
"""
