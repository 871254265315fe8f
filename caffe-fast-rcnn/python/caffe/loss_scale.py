"""loss_scale: in fp16 the gradients are held so many times as large, because the small ones would be zero.

Micikevicius et al., Mixed precision training, 2018, section 3.2.
"""

import torch

from . import common

CLEAN = 2000  # updates in a row whose gradients were finite, after which the scale is doubled


class LossScale:
    """value: the scale; clean: updates since it changed. In other precisions it does nothing."""

    def __init__(self, value=2.0**16, clean=0):
        self.value, self.clean = value, clean

    @staticmethod
    def needed():
        return common.precision() == 'fp16'

    def state(self):
        """(value, clean), or None where it does nothing."""
        return (self.value, self.clean) if self.needed() else None

    def applied(self):
        """Within, backward passes hold their gradients so large."""
        return common.scaled(self.value if self.needed() else 1.0)

    def allows(self, blobs):
        """Whether these parameters' diffs may update them: they are finite. The scale is halved if they are not. On a
        GPU this waits for them."""
        if not self.needed():
            return True
        grads = [blob.grad for blob in blobs if blob.count]
        finite = not grads or bool(torch.stack(torch._foreach_norm(grads, torch.inf)).isfinite().all())
        self.follow(finite)
        return finite

    def follow(self, finite):
        """The scale after an update whose gradients were finite, or were not."""
        self.clean = self.clean + 1 if finite else 0
        if not finite:
            self.value /= 2
            common.logger.info('Gradients are not finite: no update, the loss scale is now %g', self.value)
        elif self.clean == CLEAN:
            self.value, self.clean = self.value * 2, 0
