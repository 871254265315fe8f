"""The region proposal network's own layers, and what they compute, over levels and images.

generate_anchors       reference anchors, and the grid of them over a feature map
proposals              scores and deltas of the RPN -> boxes
targets                ground truth -> labels and regression targets, of anchors and of RoIs
proposal_layer, anchor_target_layer, proposal_target_layer    thin Python layers around these
generate               proposals of a whole imdb
"""
