"""The model of a training: loaded, quantised, and with its adapter, as a trainer takes it.

A `Model` artifact and the settings of a training come in. What TRL's trainers take goes out, with
the dtype to compute in and the kernels that make it faster. Public for other plugins that train.
"""
