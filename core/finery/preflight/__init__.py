"""Checks of what a training would learn, before it runs.

`run` finds or sketches the inputs of the trainings and has each training prove its rows; `report`
is the result as plain data. The input is a graph, the output a report for each data set of each
training.
"""
