"""convert_annoset [flags] ROOT/ LIST DB: a database of images with boxes, for SSD's AnnotatedData layers.

LIST has lines `image annotations` (-anno_type detection) or `image label` (classification); ROOT is put before both as
they stand. Annotations (-label_type): xml, as PASCAL VOC's and ILSVRC's; json, one image of COCO's a file; txt, lines
`label xmin ymin xmax ymax`. -label_map_file gives names their labels. Flags as SSD's, with one dash or two.
"""

import argparse
import collections
import json
import sys
import xml.etree.ElementTree as ElementTree

from .convert_imageset import SWITCHES, convert, make_datum, parsed
from .format.files import read_text
from .proto import caffe_pb2
from .types.detections import read_label_map
from .types.sources.images import read_list


def parse(argv):
    parser = argparse.ArgumentParser(prog='convert_annoset', allow_abbrev=False, description=__doc__)
    parser.add_argument(
        '-anno_type', '--anno_type', default='classification', choices=['classification', 'detection']
    )
    parser.add_argument('-label_type', '--label_type', default='xml', choices=list(READERS))
    parser.add_argument('-label_map_file', '--label_map_file', default='', help='a LabelMap prototxt')
    parser.add_argument('-min_dim', '--min_dim', type=int, default=0, help='least pixels of the shorter side')
    parser.add_argument('-max_dim', '--max_dim', type=int, default=0, help='most pixels of the longer side')
    switches = {**SWITCHES, 'check_label': 'names and labels are always checked: this changes nothing'}
    args = parsed(parser, switches, argv)
    if args.anno_type == 'detection' and args.label_type != 'txt' and not args.label_map_file:
        parser.error('-anno_type detection needs -label_map_file')
    return args


# ---- annotations: [(label, difficult, (xmin, ymin, xmax, ymax))] in pixels, and the image's (height, width) or None ----


def read_xml(path, labels):
    try:
        root = ElementTree.fromstring(read_text(path, 'annotations'))
        size = root.find('size')
        size = None if size is None else tuple(int(size.findtext(n)) for n in ('height', 'width'))
        return [_xml_object(element, labels, path) for element in root.findall('object')], size
    except (ElementTree.ParseError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is no annotation of an image: {error}') from None


def _xml_object(element, labels, path):
    box = tuple(float(element.find('bndbox').findtext(n)) for n in ('xmin', 'ymin', 'xmax', 'ymax'))
    return (
        label_of(element.findtext('name'), labels, path),
        (element.findtext('difficult') or '0') != '0',
        box,
    )


def read_json(path, labels):
    """COCO's of one image: {"image": {"height", "width"}, "annotation": [...]}; crowds are difficult."""
    try:
        known = json.loads(read_text(path, 'annotations'))
        size = known['image']['height'], known['image']['width']
        found = []
        for row in known['annotation']:
            x, y, width, height = row['bbox']
            label = label_of(str(row['category_id']), labels, path)
            found.append((label, bool(row.get('iscrowd')), (x, y, x + width, y + height)))
        return found, size
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f'{path} is no annotation of an image: {error!r}') from None


def read_txt(path, labels):
    found = []
    for number, line in enumerate(read_text(path, 'annotations').splitlines(), 1):
        try:
            label, *box = line.split()
            x1, y1, x2, y2 = (float(v) for v in box)
            found.append((int(label), False, (x1, y1, x2, y2)))
        except ValueError:
            raise ValueError(
                f'{path}, line {number}: wanted are a label and four numbers; got {line!r}'
            ) from None
    return found, None


READERS = {'xml': read_xml, 'json': read_json, 'txt': read_txt}


def label_of(name, labels, path):
    if name not in labels:
        raise ValueError(f'{path}: {name!r} is not in the label map; known: {", ".join(sorted(labels))}')
    return labels[name]


# ---- records ----


def annotated(datum, objects, size):
    """An AnnotatedDatum of a Datum and its objects [(label, difficult, box in pixels)] in an image (height, width)."""
    record = caffe_pb2.AnnotatedDatum(datum=datum, type=caffe_pb2.AnnotatedDatum.BBOX)
    groups = collections.defaultdict(list)
    for label, difficult, box in objects:
        x1, y1, x2, y2 = (v / n for v, n in zip(box, (*size[::-1], *size[::-1])))
        bbox = caffe_pb2.NormalizedBBox(xmin=x1, ymin=y1, xmax=x2, ymax=y2, difficult=difficult)
        groups[label].append(caffe_pb2.Annotation(instance_id=len(groups[label]), bbox=bbox))
    for label, own in groups.items():
        record.annotation_group.add(group_label=label, annotation=own)
    return record


def stored_size(size, args):
    """What -min_dim and -max_dim, or -resize_height and -resize_width, make of an image's (height, width)."""
    scale = max(1, args.min_dim / min(size))
    if args.max_dim and int(scale * max(size)) > args.max_dim:
        scale = args.max_dim / max(size)
    if scale == 1:
        return args.resize_height, args.resize_width
    return tuple(max(1, int(scale * n)) for n in size)


def make_annotated(labels):
    """make(image file, annotation file, args) for convert_imageset.records."""

    def make(path, annotations, args):
        image_size = []

        def size_of(size):
            image_size.append(size)
            return stored_size(size, args)

        datum, shape = make_datum(path, None, args, size_of)
        objects, size = READERS[args.label_type](args.root + annotations, labels)
        size = size or image_size[0]
        if not all(n > 0 for n in size):
            raise ValueError(f'{args.root}{annotations}: the image is {size} (height, width)')
        return annotated(datum, objects, size), shape

    return make


def make_labelled(path, label, args):
    datum, shape = make_datum(path, label, args, lambda size: stored_size(size, args))
    return caffe_pb2.AnnotatedDatum(datum=datum), shape


def read_pairs(path):
    """[(image, annotations)] of a list's lines."""
    pairs = [tuple(line.rsplit(None, 1)) for line in read_text(path, 'list').splitlines() if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f'{path}: wanted are lines with an image and its annotations')
    return pairs


def main(argv=None):
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        if args.anno_type == 'classification':
            convert(read_list(args.list), args, make_labelled)
            return
        names = read_label_map(args.label_map_file) if args.label_map_file else {}
        labels = {name: label for label, name in names.items()}
        convert(read_pairs(args.list), args, make_annotated(labels))
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f'convert_annoset: {error}')


if __name__ == '__main__':
    main()
