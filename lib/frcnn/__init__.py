"""A trained detector as one object: `from frcnn import Detector`, this folder's parent and the engine's being on the path.

detector = Detector('model.frcnn')
boxes, scores, labels, masks = detector('picture.jpg')
"""

from frcnn.detector import Detections, Detector
