"""A running Ollama with only the model of one folder, separate from the user's Ollama.

Input: a folder of `ollama.modelfile`. Output: the server's address, its prompts and how it samples.
All of this was written from the source of Ollama 0.33.0-rc2 (fb30760), and tried by hand with
Ollama 0.32.15 and 0.13.5.
"""
