"""Prompting a model: templates, tasks, requests and their answers.

The input is rows and a template. The output is tasks, requests, and answers as they arrive, or why
they can't be used. Waiting values are on disk.
"""
