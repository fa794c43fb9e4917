"""The steps that index chunks and use an index, and the engine of models that do.

Input: chunks, questions and models. Output: an index, rows with retrieved context, and models that
retrieve it themselves.
"""
