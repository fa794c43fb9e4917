"""The step types of this plugin, one module each.

The input is settings and rows. The output is tasks, and the rows in answers. The runs are in
`finery_synth.flow`.
"""
