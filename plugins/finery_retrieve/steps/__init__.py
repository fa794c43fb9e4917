"""The steps that index chunks and use an index, and the engine of models that do.

In go chunks, questions and models. Out come an index, rows with retrieved context, and models that
retrieve it themselves.
"""
