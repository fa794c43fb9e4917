"""Answering of prompts with transformers.

Input: prompts as tokens. `generation` makes raw answers, on a CPU with the layers of `cpu`.
`answers` parses them into text, thinking and tool calls, in the notations of `calls`. Output:
completions.
"""
