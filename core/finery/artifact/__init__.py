"""Artifacts: what steps take and leave.

`kinds` has the classes that steps see (`Dataset`, `Model`, `Metrics`, `Bundle`); `manifest`
describes an artifact without its bytes. In go files that a step wrote; out comes an identity that
keys can hold.
"""
