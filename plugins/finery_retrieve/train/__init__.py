"""Trainings of what retrieves: embedding models and rerankers, with sentence-transformers.

Input: questions and an index that has their answers, or pairs of a question and a passage. Output:
a model with its curve, an embedding model for `retrieve.index` or a reranker for `retrieve.rerank`.
"""
