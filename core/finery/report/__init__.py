"""The report of a build: one HTML page for a colleague who has nothing installed.

Input: a graph, what is built of it and the record of its last run. Output: the page. Plugins' views
give the sections about rows, curves and scores; this package adds steps, costs and origin.
"""
