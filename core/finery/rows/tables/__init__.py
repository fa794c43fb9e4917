"""Files of records, read strictly: JSON lines, CSV, Parquet, plain or compressed.

In goes a path, out come records, each with the place in the file that errors and lineage name.
"""
