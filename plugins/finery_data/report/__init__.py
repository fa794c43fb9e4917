"""The page on data sets: facts counted as rows pass by, and the HTML that shows them.

In go data sets, out comes one page that loads nothing and runs nothing.
"""
