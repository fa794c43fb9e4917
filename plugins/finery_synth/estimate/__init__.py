"""What `finery plan` says of generators: calls, tokens and cost before anything is asked.

In go the graph and what is built, out come estimates. No step type imports this package.
"""
