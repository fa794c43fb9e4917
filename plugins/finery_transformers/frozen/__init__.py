"""The chat template that a model answers with: the one of its training, which nobody can change.

Input: a trained model. Output: the source of one template for all programs that serve the model.
`template` makes it, and `proof` compares its prompts with the training's.
"""
