"""`finery chat`: talk to a built model in the terminal, or to two side by side.

In go lines of a user, out come answers as they are written. A talk can be saved as a row that
`data.file` reads.
"""
