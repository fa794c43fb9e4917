"""The devices of a training: its GPU, the number of processes, and how they share weights.

Each process selects its GPU before it loads anything. The checks compare `launch` with the GPUs of
this machine and with what finery can save, so that a training that can't end never starts.
"""
