"""Detection on a pyramid of feature maps (Lin et al., Feature Pyramid Networks, 2017).

boxes                   the two families of box arithmetic, Caffe's and torchvision's; FAMILIES
anchors                 the anchors of every level, as the layers' param_str has them
proposals               from the levels' scores and deltas to RoIs
levels                  which level a RoI is pooled from
targets                 what the levels' anchors, and RoIs, are to answer
cascade                 between heads that judge what the one before has moved
detections              from the RoIs' answers to what is found in the images
*_layer                 the Python layers, thin
"""
