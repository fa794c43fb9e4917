"""Asking a model for many things: prompts from templates, requests, and what came back.

In go rows and a template, out come requests and their answers, with memory that stays flat.
"""
