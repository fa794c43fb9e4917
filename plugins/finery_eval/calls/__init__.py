"""Tool calls: read from rows and answers, held against a tool's JSON Schema, and compared.

In go the turns and tools of rows and the answers of models, out come calls with what is wrong with
them, which of them are the expected ones, and tables about that.
"""
