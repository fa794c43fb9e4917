"""Step types: the class that plugin authors write, and the job that a running step gets.

`step` has the base class and checks a type on loading, `inspect` reads what a class declares, and
`job` is everything that a running step may use. `look`, `forecast`, `notes`, `resources` and
`finery.key` have the values that its methods take and return.
"""
