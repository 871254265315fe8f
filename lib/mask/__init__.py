"""Masks of objects (He et al., Mask R-CNN, 2017). docs/masks.md says what flows where.

targets                 what a head is to say of the cells of RoIs
target_layer            the Python layer that makes them, thin
passes                  a test net's two passes: for boxes, then for the masks of those that are kept
"""
