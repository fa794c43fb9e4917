"""Tool calls: read from rows and answers, validated against JSON Schemas, and compared.

Input: the turns and tools of rows, and the answers of models. Output: calls with their faults,
which of them match the expected ones, and tables about that.
"""
