"""The commands of `finery`, one module each, registered through the hook that plugins use.

A command reads options, calls the layers below and prints; what it prints comes from
`finery.cli.console`.
"""
