"""Files of records, read strictly: JSON lines, CSV, Parquet, plain or compressed.

Input: a path. Output: records, each with the place in the file that errors and lineage name.
"""
