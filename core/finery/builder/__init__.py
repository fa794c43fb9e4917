"""The build: from a checked graph and a store to finished steps.

`plan` computes each step's key (`keys`, `code`) and state. `scheduler` runs steps and commits their
outputs. `uptodate` detects quickly that there is nothing to do. `runs` has the records of builds.
"""
