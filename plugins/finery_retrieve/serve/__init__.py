"""Serving answers with their sources: with finery, and as a folder for others.

Input: a model that retrieves documents. Output: a running server with a page and an
OpenAI-compatible API, a bundle that starts the same server on another machine, and a check of it.
"""
