"""The page of a review while it is open: a local server, its session, and the rows it shows.

Input: rows, a file of decisions and requests of the page in `page/`. Output: answers to these and
decisions in the file.
"""
