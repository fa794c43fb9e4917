"""The step types of this plugin, one module each.

The input is settings and rows. The output is tasks, and the rows in answers. What all of them share
is in `finery_synth.generator` and `finery_synth.generation`.
"""
