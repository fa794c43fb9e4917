"""Comparison of builds: what was built when, and what differs between two states.

Input: the records of runs, git revisions, and the current recipe. Output: first metrics,
results and differences as plain data. The views of plugins describe how artifacts differ.
"""
