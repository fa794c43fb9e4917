"""Records of builds: who built what from which revision, and how it ended.

A build writes its record while it runs, and `finery runs`, `show --run` and `diff` read it. In go
events and facts about the project, out comes a `Run`.
"""
