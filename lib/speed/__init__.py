"""How fast and how large: tools/bench.py measures the rows that are tables here, against others on the same machine.

rows: what there is to measure    nets: a net as a row, ours and others'    plain: the same net written in PyTorch
pipeline: rows that are no nets    data: images, roidbs, detections made up    measure: the clock    report: the table

A row is a function of a Case under @row, which gives {who: Contender}: 'ours' first, against whom the others are held.
Nothing is read but the prototxt files of models/: weights are drawn, images made up.
"""
