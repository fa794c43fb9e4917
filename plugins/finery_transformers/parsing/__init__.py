"""What a local model answered: raw text into text, thinking and tool calls.

`reader` is the way in: it takes a chat template's source and raw answers, and finds the notation of
calls among `notations`, `channels` and `described`.
"""
