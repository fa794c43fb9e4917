"""Rows from outside: what every source shares, and the formats of records.

`source` has the base class for step types that read rows; it is public for other plugins. Input:
records of a table. Output: rows in finery's shape, or errors that name the record.
"""
