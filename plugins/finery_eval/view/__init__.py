"""The display of evaluations: scores side by side, tables, confusion, wrong answers.

Input: `Metrics` of any step type. Output: sections, records and JSON values.
"""
