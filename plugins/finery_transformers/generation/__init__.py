"""How batches of prompts are answered: which rows together, what they share, and for how long.

`room` says how many rows fit, `heads` reads what prompts begin with once, and `rounds` generates
and leaves out the rows whose answers have ended. `packing` and `attention` make that quicker on a
CPU. All but `room` import torch.
"""
