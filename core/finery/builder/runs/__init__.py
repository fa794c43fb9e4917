"""Records of builds: who built what from which revision, and how it ended.

A build writes its record while it runs, and `finery runs`, `show --run` and `diff` read it. Input:
events and facts about the project. Output: a `Run`.
"""
