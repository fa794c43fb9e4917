"""vLLM as a process: where it is installed, its command line, and its start and end.

Input: a folder that vLLM reads. Output: a running server. Public for other plugins is `start`.
"""
