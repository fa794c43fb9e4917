"""Evaluators of retrieval, and of answers from retrieved documents.

Input: indices or models and questions whose right chunk is known. Output: `Metrics`: how often the
right chunk is retrieved, and how good answers are with each kind of context.
"""
