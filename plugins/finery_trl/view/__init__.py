"""What models look like: facts, a training's curve and the verdict on it, live metrics.

A model comes in, whoever trained it; text, a page and JSON values go out. Other plugins may use it:
a model's folder holds its curve as `curve.json`.
"""
