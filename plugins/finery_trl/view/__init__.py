"""The views of models: facts, the training curve with a verdict, live metrics.

They show models of any trainer that writes the curve to `curve.json` in the model's folder. Public
for other plugins.
"""
