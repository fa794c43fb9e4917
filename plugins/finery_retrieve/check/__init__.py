"""`retrieve.check`: whether the app of a bundle retrieves, prompts and answers as the build did.

In go a model that retrieves, its bundle, and questions whose right chunk is known. Out come
`Metrics` of the app's answers beside those of finery's own engine, and the faults of the app.
"""
