"""The display of artifacts and live metrics: the contract of views, and their tools.

`view` has the base class and the types of its arguments, `metrics` defines how a running step's
metrics are shown, `display` prints, `html` renders pages. Input: an output of a step. Output: text,
JSON values or a page.
"""
