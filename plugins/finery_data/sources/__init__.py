"""Rows from outside: what every source shares, and the formats of records.

`source` is the base class for step types that read rows (used by `finery_hub` and `finery_sql`
too). In go records of a table, out come rows in finery's shape, or errors that name the record.
"""
