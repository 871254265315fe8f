"""Whether a net to be trained answers for as many classes as its training set has."""

from utils.param_str import parse_param_str

# A Python layer's modules, by their last word, whose param_str says num_classes
LAYERS = 'RoIDataLayer', 'ProposalTargetLayer'


def check_classes(net, num_classes, agnostic, path):
    """ValueError naming the net's file, the first blob or layer that is made for other classes than num_classes
    (background counts), what was wanted and what it is. agnostic: boxes are regressed for two."""
    boxes = 2 if agnostic else num_classes
    for blob, wanted in ('cls_score', num_classes), ('bbox_pred', 4 * boxes):
        if blob in net.blobs and net.blobs[blob].shape[1] != wanted:
            raise ValueError(
                f'{path}: blob {blob} has {net.blobs[blob].shape[1]} columns, wanted {wanted}: the training set '
                f'has {num_classes} classes with the background'
                + (' (TRAIN.AGNOSTIC: boxes of two)' if agnostic else '')
            )
    for layer in net.layers:
        given = layer.layer_param.python_param.layer in LAYERS and parse_param_str(layer.param_str)
        found = given and given.get('num_classes')
        if found and found not in (num_classes, boxes):
            raise ValueError(
                f"{path}: layer {layer.name} has 'num_classes': {found}, wanted {num_classes}: the training set has "
                f'so many with the background'
            )
