"""Model cards: the README.md of a model, and what the hub reads of it. `finery card` prints one."""
