"""What evaluations look like: scores side by side, tables, confusion, wrong answers.

`Metrics` come in, whatever step type made them; tables of the terminal and JSON values go out.
"""
