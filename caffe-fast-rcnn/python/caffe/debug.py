"""What debug_info asks for: the mean magnitude of each blob and parameter, logged after each layer and update."""

from .common import logger


def mean_size(tensor):
    return float(tensor.abs().mean()) if tensor.numel() else 0.0


def log_passes(net):
    """From now on the net's passes tell of every layer; its layers run one by one."""

    def tell(way, layer, what, tensor):
        logger.info('    [%s] Layer %s, %s: %g', way, layer.name, what, mean_size(tensor))

    def forward(i):
        node = net._nodes[i]
        for name, top in zip(node.top_names, node.tops):
            tell('Forward', node.layer, f'top blob {name} data', top.tensor)
        for k, blob in enumerate(node.layer.blobs):
            tell('Forward', node.layer, f'param blob {k} data', blob.tensor)

    def backward(i):
        node = net._nodes[i]
        for name, bottom, needed in zip(node.bottom_names, node.bottoms, node.propagate_down):
            if needed:
                tell('Backward', node.layer, f'bottom blob {name} diff', bottom.grad)
        for k, (blob, needed) in enumerate(zip(node.layer.blobs, node.layer.param_propagate_down)):
            if needed:
                tell('Backward', node.layer, f'param blob {k} diff', blob.grad)

    net.after_forward(forward)
    net.after_backward(backward)


def log_gradients(net):
    """The L1 and L2 norms of all parameters and of their diffs."""
    blobs = net.learnable_params
    norms = [
        sum(float(t.norm(p)) ** p for t in tensors) ** (1 / p)
        for p in (1, 2)
        for tensors in ([b.tensor for b in blobs], [b.grad for b in blobs])
    ]
    logger.info('    [Backward] All net params (data, diff): L1 norm = (%g, %g); L2 norm = (%g, %g)', *norms)


def log_update(net):
    """Each parameter, and what was subtracted from it."""
    for name, blobs in net.params.items():
        for k, blob in enumerate(blobs):
            logger.info(
                '    [Update] Layer %s, param %d data: %g; diff: %g',
                name,
                k,
                mean_size(blob.tensor),
                mean_size(blob.grad),
            )
