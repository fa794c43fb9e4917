"""`finery chat`: talk to a built model in the terminal, or to two side by side.

Input: lines of a user. Output: answers as they are written. A talk can be saved as a row that
`data.file` reads.
"""
