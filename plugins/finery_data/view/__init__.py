"""What data sets look like in a terminal: lengths, classes, rows, what was dropped and why.

A data set comes in, whatever step type made it; text and JSON values go out. Its page is in
`finery_data.report`.
"""
