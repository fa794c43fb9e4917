"""What `finery plan` says of steps that have a model make rows, before anything is asked.

In go the graph and what is built, out come calls, tokens and cost. No step type imports this
package.
"""
