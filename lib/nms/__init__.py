"""Greedy non-maximum suppression, once for each rule in use.

cpu_nms     drops a box whose IoU with a kept one is >= thresh (compiled; numpy where it is not built)
gpu_nms     drops at IoU > thresh, on any device: by a CUDA kernel where it is built, in torch otherwise
py_cpu_nms  drops at IoU > thresh, in numpy
soft_nms    drops none at once: scores fall by overlap

cpu_class_nms and gpu_class_nms are the first two for boxes of several classes in one call.
"""
