"""Checks of texts: their language, personal data, and labels that look like mistakes.

Input: texts of rows. Output: findings, which a step counts and keeps.
"""
