"""The step types of this plugin, one module each.

In go settings and rows, out come the tasks to ask and the rows that answers hold; the runs are in
`finery_synth.flow`.
"""
