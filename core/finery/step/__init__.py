"""Step types: the class that plugin authors write, and the job that a running step gets.

`step` is the base class, `inspect` reads what a class declares, `contract` checks it when it is
loaded, `job` is all that a running step may touch.
"""
