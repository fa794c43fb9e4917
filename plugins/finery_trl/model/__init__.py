"""The model of a training, loaded, quantized and with its adapter for TRL's trainers.

Also decides the compute dtype and the kernels to use. Public for other plugins that train.
"""
