"""The page on data sets: facts counted as rows pass by, and the HTML that shows them.

Input: data sets. Output: one page that loads no other files and runs no scripts.
"""
