"""`retrieve.check`: does the app of a bundle retrieve, prompt and answer like the build?

Input: a model that retrieves, its bundle, and questions with known right chunks. Output: `Metrics`
of the app's answers next to those of finery's own engine, and the faults of the app.
"""
