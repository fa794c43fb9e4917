"""The content-addressed store: blobs by digest, finished keys, and folders of links to open.

It takes the files that a step wrote and returns manifests and results. The store stays valid when a
build is killed at any moment.
"""
