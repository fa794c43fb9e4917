"""Estimates in `finery plan` for steps that have a model write rows.

The input is the graph and the built results. The output is calls, tokens and cost. No step type
imports this package.
"""
