"""Conversations in the format of the OpenAI Chat Completions API, and the checks of their turns.

Input: turns from a file or a person. Output: turns that a chat template accepts, or problems by
name.
"""
