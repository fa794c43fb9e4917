"""Artifacts: the inputs and outputs of steps.

`kinds` has the classes that steps see (`Dataset`, `Model`, `Metrics`, `Bundle`, `Index`);
`manifest` describes an artifact without its bytes. It turns the files that a step wrote into an
identity that keys contain.
"""
