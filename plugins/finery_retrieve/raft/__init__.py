"""`synth.raft`: training rows that teach a model to answer from retrieved chunks.

In go questions with answers and quotes, and an index. Out come rows whose prompts contain the right
chunk among retrieved ones, or only others, with answers that quote and cite.
"""
