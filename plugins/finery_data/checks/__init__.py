"""What can be wrong with a text: its language, personal data, labels that look like mistakes.

In go texts of rows, out come findings that a step counts and keeps.
"""
