"""summary: a net as a table of its layers."""


def summary(net):
    """A line for each layer: name, type, tops with their shapes, number of parameters; and their sum, in which a
    shared one counts once."""
    rows = [('layer', 'type', 'tops', 'parameters')]
    for layer, tops in zip(net.layers, net.top_names.values()):
        shapes = ', '.join(f'{name} {net.blobs[name].shape}' for name in tops)
        count = sum(blob.count for blob in layer.blobs)
        rows.append((layer.name, layer.type, shapes, f'{count:,}' if count else ''))
    rows.append(('total', '', '', f'{sum(blob.count for blob in net.learnable_params):,}'))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [f'{a:{w}}  {b:{x}}  {c:{y}}  {d:>{z}}' for a, b, c, d in rows for w, x, y, z in [widths]]
    return '\n'.join([f'Net {net.name!r}, {net.phase}', *(line.rstrip() for line in lines)])
