"""The step types of this plugin, one per module, with a common base that implements `run`.

They take a model and rows, and produce a trained `Model`. Public: the step types of other plugins
may derive from these.
"""
