"""How many classes a net is made for, whether its training set has as many, and which of a net's boxes are of which."""

from fast_rcnn.config import cfg
from utils.param_str import parse_param_str

# A Python layer's modules, by their last word, whose param_str says num_classes
LAYERS = 'RoIDataLayer', 'ProposalTargetLayer'
# Layers with parameters: their outputs per class. R-FCN's maps have 7 x 7 parts
SCORES = {'cls_score': 1, 'rfcn_cls': 49}
OUTPUTS = {**SCORES, 'bbox_pred': 4, 'rfcn_bbox': 4 * 49}


def classes_of(layer):
    """The number of classes, with the background, that a LayerParameter is made for; None where it does not say."""
    if layer.python_param.layer in LAYERS:
        return parse_param_str(layer.python_param.param_str).get('num_classes')
    outputs = layer.inner_product_param.num_output or layer.convolution_param.num_output
    return outputs / OUTPUTS[layer.name] if outputs and layer.name in OUTPUTS else None


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


def of_classes(boxes, num_classes, rows, classes):
    """boxes (R, 4K) or, whatever the class, (R, 8) -> of row rows[i] that of class classes[i] (n, 4)."""
    if boxes.shape[1] not in (8, 4 * num_classes) or (cfg.TEST.AGNOSTIC and boxes.shape[1] != 8):
        wanted = (
            '8 (TEST.AGNOSTIC)' if cfg.TEST.AGNOSTIC else f'{4 * num_classes}, or 8 of a class-agnostic net'
        )
        raise ValueError(f'{num_classes} classes want boxes of {wanted} columns, got {boxes.shape[1]}')
    columns = boxes.shape[1] // 4
    return boxes.reshape(len(boxes), columns, 4)[rows, 1 if columns == 2 else classes]
