"""Conversations: turns in the shape of the OpenAI Chat Completions API, and what may be wrong.

In go turns from a file or a person, out come turns that a chat template can take, or problems by
name.
"""
