"""Helpers shared by the library: arrays and tensors, image blobs, files, overlaps, progress, time."""
