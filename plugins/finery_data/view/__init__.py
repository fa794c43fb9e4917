"""The display of data sets in a terminal: lengths, classes, rows, what was dropped and why.

Input: a data set of any step type. Output: text and JSON values. The page is in
`finery_data.report`.
"""
