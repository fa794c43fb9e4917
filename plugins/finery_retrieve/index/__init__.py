"""An index of chunks: how it is written, searched, and put into prompts.

Input: chunks with a text and a source, and questions. Output: files that are the same bytes for the
same chunks, the chunks that fit a question best, and prompts that contain them.
"""
