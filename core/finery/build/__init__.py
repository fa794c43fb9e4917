"""The build: from a checked graph and a store to finished steps.

`plan` gives each step its key (`keys`, `code`) and its state; `scheduler` starts what must run and
commits what it leaves; `uptodate` answers quickly when there is nothing to do.
"""
