"""Helpers shared by the library: image blobs, files, overlaps, progress, time."""
