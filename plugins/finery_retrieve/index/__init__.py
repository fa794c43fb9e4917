"""An index of chunks: how it is written, searched, and put into prompts.

In go chunks with a text and a source, and questions. Out come files that are the same bytes for the
same chunks, the chunks that fit a question best, and prompts that contain them.
"""
