"""Checks of what a training would learn, before it runs.

`run` finds or sketches the inputs of steps that can be proven and asks them; `report` is the
result as plain data. In goes a graph, out comes a report for each data set of each training.
"""
