"""The code in the keys of steps: in go classes, functions and files, out come files with digests.

`steps` finds what a step's settings, engines and wrappers name. finery's own code counts by
definition, as `definitions.json` says (`table`), everything else by `closure`: files, whole, with
all that they import (`imports` finds it, `parse` reads it), plugin packages by content, and
installed distributions by version; `index` has what all closures share. `finery.plugin.several`
is the one exception, for files with several step types.
"""
