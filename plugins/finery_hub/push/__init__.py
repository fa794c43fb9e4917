"""Models pushed to the hub: their files, a model card, the recipe and its lock file.

Input: models and bundles of a recipe, and how they were made. Output: one commit on the hub, and an
artifact that records it.
"""
