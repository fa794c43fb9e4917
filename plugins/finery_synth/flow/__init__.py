"""Complete runs: from models' answers to rows.

The input is a step with its settings and the job. The output is the rows, the dropped rows, and how
each row was made. `generation` runs every generator, `selection` runs `synth.preferences`, and
`scoring` and `comparison` run `synth.judge`.
"""
