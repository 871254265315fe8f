"""The region proposal network's own layers.

generate_anchors       reference anchors, and the grid of them over a feature map
proposal_layer         scores and deltas of the RPN -> RoIs
anchor_target_layer    ground truth -> labels and regression targets of anchors (trains the RPN)
proposal_target_layer  ground truth -> labels and regression targets of RoIs (trains the head, end to end)
generate               proposals of a whole imdb
"""
