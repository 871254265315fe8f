#!/usr/bin/env python3
"""Records what torchvision's Faster R-CNN and Mask R-CNN with FPN answer, with weights drawn from their names.

    python record.py OUT.npz CASE...        needs torch and torchvision with its operators (recorded with 1.13 and 0.14.1)

Weights are not stored: `weight(name, shape)` draws them, for whoever has numpy. Keys of a recording are CASE/...:
settings (JSON); image<i> (3, H, W) in [0, 1], RGB; boxes<i>, labels<i>, masks<i> (targets); then of the TEST pass
batch (shape after resizing and padding), sizes (N, 2), digest/<name> of the feature maps 0 1 2 3 pool and of objectness and deltas per
level, proposals<i> (P, 4), boxes<i>, scores<i>, labels<i>, masks<i> (the detections; masks (D, 28, 28), before they are pasted, by
`probs<i>`), and of the TRAIN pass losses (JSON) and grad/<parameter name>, digests of the gradient of the sum of the losses.
The samplers take every positive and every negative, so nothing is drawn at random.
A digest: [mean, std, 64 values at the positions np.random.RandomState(size % 2147483647).randint(0, size, 64) of the flat array].
"""

import json
import sys
import zlib

import numpy as np

CASES = {
    'faster_r18': dict(
        kind='faster',
        backbone='resnet18',
        num_classes=5,
        min_size=240,
        max_size=400,
        sizes=[(200, 260), (180, 150)],
    ),
    'faster_r50': dict(
        kind='faster', backbone='resnet50', num_classes=3, min_size=200, max_size=333, sizes=[(160, 240)]
    ),
    'mask_r18': dict(
        kind='mask',
        backbone='resnet18',
        num_classes=4,
        min_size=224,
        max_size=360,
        sizes=[(220, 300), (150, 150)],
    ),
    'mask_r50': dict(
        kind='mask',
        backbone='resnet50',
        num_classes=7,
        min_size=256,
        max_size=320,
        sizes=[(210, 190), (256, 310)],
    ),
    'faster_r34_one': dict(
        kind='faster', backbone='resnet34', num_classes=2, min_size=260, max_size=260, sizes=[(97, 311)]
    ),
}


def seeded(name):
    return np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)


def weight(name, shape):
    """The values of the parameter or buffer `name` of torchvision's state_dict."""
    r = seeded(name)
    if name.endswith('running_var'):
        return (0.5 + r.rand(*shape)).astype('f4')
    if name.endswith('running_mean'):
        return (0.1 * r.randn(*shape)).astype('f4')
    if len(shape) == 1:
        norm = '.bn' in name or 'downsample.1' in name
        return (
            (0.6 + 0.4 * r.rand(*shape)) if norm and name.endswith('weight') else 0.05 * r.randn(*shape)
        ).astype('f4')
    gain = 0.5 if 'layer' in name and ('conv3' in name or ('conv2' in name and 'resnet' not in name)) else 1.0
    if 'cls_score' in name or 'cls_logits' in name:
        gain = 0.7
    if 'bbox_pred' in name:
        gain = 0.3
    return (gain * np.sqrt(2.0 / np.prod(shape[1:])) * r.randn(*shape)).astype('f4')


def picture(case, i, size):
    """A smooth picture with some rectangles, (3, H, W) in [0, 1], and the rectangles."""
    r, (h, w) = seeded('%s picture %d' % (case, i)), size
    y, x = np.mgrid[:h, :w]
    image = np.stack(
        [0.5 + 0.3 * np.sin(x / r.uniform(9, 40) + r.rand()) * np.cos(y / r.uniform(9, 40)) for _ in range(3)]
    )
    boxes = []
    for _ in range(4):
        bw, bh = r.uniform(0.15, 0.6, 2) * (w, h)
        x1, y1 = r.rand() * (w - bw), r.rand() * (h - bh)
        boxes.append([x1, y1, x1 + bw, y1 + bh])
        image[:, int(y1) : int(y1 + bh), int(x1) : int(x1 + bw)] = r.rand(3)[:, None, None]
    return image.astype('f4'), np.array(boxes, 'f4')


def digest(a):
    a = np.asarray(a, np.float64).ravel()
    return np.concatenate(
        [[a.mean(), a.std()], a[np.random.RandomState(a.size % 2147483647).randint(0, a.size, 64)]]
    )


def record(case):
    import torch
    import torchvision
    from torchvision.models.detection import FasterRCNN, MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    s, out = CASES[case], {}
    backbone = resnet_fpn_backbone(backbone_name=s['backbone'], weights=None, trainable_layers=3)
    everything = dict(rpn_batch_size_per_image=10**6, box_batch_size_per_image=10**6)
    kw = dict(
        num_classes=s['num_classes'],
        min_size=s['min_size'],
        max_size=s['max_size'],
        box_score_thresh=0.02,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=200,
        rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=200,
        box_detections_per_img=50,
        **everything,
    )
    model = (FasterRCNN if s['kind'] == 'faster' else MaskRCNN)(backbone, **kw)
    model.load_state_dict(
        {
            k: torch.from_numpy(weight(k, tuple(v.shape))) if v.dtype == torch.float32 else v
            for k, v in model.state_dict().items()
        }
    )
    out['settings'] = json.dumps({**s, **kw, 'torchvision': torchvision.__version__})
    images, targets = [], []
    for i, size in enumerate(s['sizes']):
        image, boxes = picture(case, i, size)
        labels = seeded('%s labels %d' % (case, i)).randint(1, s['num_classes'], len(boxes))
        out['image%d' % i], out['target_boxes%d' % i], out['target_labels%d' % i] = image, boxes, labels
        target = {'boxes': torch.from_numpy(boxes), 'labels': torch.from_numpy(labels)}
        if s['kind'] == 'mask':
            y, x = np.mgrid[: size[0], : size[1]]
            masks = np.stack(
                [
                    ((x - (b[0] + b[2]) / 2) / (b[2] - b[0])) ** 2
                    + ((y - (b[1] + b[3]) / 2) / (b[3] - b[1])) ** 2
                    < 0.2
                    for b in boxes
                ]
            )
            out['target_masks%d' % i] = masks
            target['masks'] = torch.from_numpy(masks.astype('u1'))
        images.append(torch.from_numpy(image))
        targets.append(target)
    seen = {}
    model.backbone.register_forward_hook(lambda m, i, o: seen.update(features=o))
    model.rpn.head.register_forward_hook(lambda m, i, o: seen.update(head=o))
    model.rpn.register_forward_hook(lambda m, i, o: seen.update(proposals=o[0]))
    model.transform.register_forward_hook(lambda m, i, o: seen.update(batch=o[0]))
    if s['kind'] == 'mask':
        model.roi_heads.mask_predictor.register_forward_hook(lambda m, i, o: seen.update(mask_logits=o))
    model.eval()
    with torch.no_grad():
        found = model(images)
    out['batch'], out['sizes'] = np.array(seen['batch'].tensors.shape), np.array(seen['batch'].image_sizes)
    for k, v in seen['features'].items():
        out['digest/feature_' + k], out['shape/feature_' + k] = digest(v), np.array(v.shape)
    for i, (o, d) in enumerate(zip(*seen['head'])):
        out['digest/objectness_%d' % i], out['digest/deltas_%d' % i] = digest(o), digest(d)
    first = 0
    for i, (f, p) in enumerate(zip(found, seen['proposals'])):
        out['proposals%d' % i], out['boxes%d' % i], out['scores%d' % i], out['labels%d' % i] = [
            t.numpy() for t in (p, f['boxes'], f['scores'], f['labels'])
        ]
        if s['kind'] == 'mask':
            n = len(f['labels'])
            logits = seen['mask_logits'][first : first + n]
            out['masks%d' % i] = torch.sigmoid(logits)[torch.arange(n), f['labels']].numpy().astype('f2')
            out['pasted_area%d' % i] = (f['masks'][:, 0] > 0.5).sum((1, 2)).numpy()
            first += n
    model.train()
    losses = model(images, targets)
    sum(losses.values()).backward()
    out['losses'] = json.dumps({k: float(v) for k, v in losses.items()})
    for k, v in model.named_parameters():
        if v.grad is not None:
            out['grad/' + k] = digest(v.grad)
    return out


def main():
    found = {}
    for case in sys.argv[2:]:
        r = record(case)
        print(
            case,
            r['losses'],
            [len(v) for k, v in r.items() if k.startswith('scores')],
            [float(v.max()) for k, v in r.items() if k.startswith('scores') and len(v)],
            {k: tuple(np.round(v[:2], 3)) for k, v in r.items() if k.startswith('digest/feature')},
            flush=True,
        )
        found.update({'%s/%s' % (case, k): v for k, v in r.items()})
    np.savez_compressed(sys.argv[1], **found)


if __name__ == '__main__':
    main()
