"""Whole runs: how what models answer becomes rows.

In go a step with its settings and the job, out come the rows, with what was dropped and how each
row was made. `generation` is the run of every generator, `selection` that of `synth.preferences`,
`scoring` and `comparison` are those of `synth.judge`.
"""
