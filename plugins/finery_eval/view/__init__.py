"""The display of evaluations: scores side by side, tables, confusion, wrong answers.

Input: `Metrics` of any step type. Output: tables for the terminal and JSON values.
"""
