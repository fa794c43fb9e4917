"""The content-addressed store: blobs by digest, finished keys, and folders of links to open.

In go the files that a step left, out come manifests and results; a build killed at any instant
leaves a store that the next one uses as it is.
"""
