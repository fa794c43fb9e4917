"""Where steps run.

In goes a `Task`, one step as plain data; out come its events and the manifests of its outputs.
`executor` is the contract, `local` runs worker processes on this machine, `worker` is such a
process.
"""
