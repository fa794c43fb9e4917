"""The app that answers with sources: a page, and an OpenAI-compatible API that adds sources.

In go a folder that `retrieve.bundle` wrote and the address of a model's server; out come answers
whose sources are listed beside them. finery runs it, and the bundle contains a copy that runs
without finery, so it imports only the standard library and what the bundle's README lists.
"""
