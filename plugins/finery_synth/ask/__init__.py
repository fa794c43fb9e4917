"""Asking a model for many things: templates, tasks, requests and their answers.

In go rows and a template, out come tasks, requests, and their answers as they arrive; what waits is
on disk.
"""
