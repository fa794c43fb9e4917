"""Held-out rows, and which other rows nearly repeat them.

Input: rows to hold out. Output: the other rows that give them away.
"""
