"""What artifacts and live metrics look like: the contract of views and what they draw with.

`view` has the base class and what its methods take, `metrics` how a running step's metrics are
shown, `display` prints, `html` renders pages. In goes an output of a step, out comes text, JSON
values or a page.
"""
