"""How prompts are answered and what the answers are.

In go prompts in tokens; `generation` makes answers of them, on a CPU with the layers of `cpu`, and
`answers` reads those as text, thinking and tool calls, in the notations of `calls`.
"""
