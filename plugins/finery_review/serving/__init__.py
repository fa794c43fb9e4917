"""The page of a review while it is open: a local server, its session, and the rows it shows.

In go rows, a file of decisions and requests of the page in `page/`, out come answers to these and
decisions in the file.
"""
