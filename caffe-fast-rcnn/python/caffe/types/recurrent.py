"""RNN, LSTM and LSTMUnit. Shapes: T time steps, N streams, D inputs, H num_output.

Bottoms of RNN and LSTM: x (T, N, D...), cont (T, N), where 0 starts a sequence anew; then, optionally, a
constant input (N, S...); then with expose_hidden the states (1, N, H) to begin with. Tops: output (T, N, H);
with expose_hidden the states at the end, (1, N, H). Without expose_hidden the state at the end of one forward
pass begins the next. No gradient goes through states given or exposed: only their values are shared.
"""

import math

import torch
import torch.nn.functional as F

from ..registry import layer
from ..tape import TorchLayer


class _Recurrent(TorchLayer):
    fields = ('num_output', 'weight_filler', 'bias_filler', 'expose_hidden')
    states = 1  # how many arrays are carried from step to step
    gates = 1  # rows of the weights per output
    has_output = False  # an own matrix from state to output

    def setup(self, bottom, top):
        self.exposed = self.states if self.field('expose_hidden') else 0
        size = self.field('num_output')
        if not size:
            raise ValueError('num_output must be given and positive')
        if len(bottom[0].shape) < 2 or tuple(bottom[1].shape) != bottom[0].shape[:2]:
            raise ValueError(
                f'x wants (T, N, ...) and cont (T, N); got {bottom[0].shape} and {bottom[1].shape}'
            )
        self.has_static = len(bottom) == 3 + self.exposed
        if not self.has_static and len(bottom) != 2 + self.exposed or len(top) != 1 + self.exposed:
            raise ValueError(
                f'{2 + self.exposed} bottoms (one more with a constant input) and '
                f'{1 + self.exposed} tops wanted; got {len(bottom)} and {len(top)}'
            )
        weights, bias, rows = self.field('weight_filler'), self.field('bias_filler'), self.gates * size
        self.add_blob((rows, math.prod(bottom[0].shape[2:])), weights)
        self.add_blob((rows,), bias)
        if self.has_static:
            self.add_blob((rows, math.prod(bottom[2].shape[1:])), weights)
        self.add_blob((rows, size), weights)
        if self.has_output:
            self.add_blob((size, size), weights)
            self.add_blob((size,), bias)
        self.begun = self.carried = None  # states that the last forward pass began and ended with

    def products(self, bottom, top):
        steps, streams = bottom[1].shape
        once = self.blobs[2].count * self.has_static
        return streams * (steps * (sum(b.count for b in self.blobs if len(b.shape) > 1) - once) + once)

    def compute(self, x, cont, *rest):
        weights = iter(self.weights)
        inputs = F.linear(x.flatten(2) if x.dim() > 2 else x[..., None], next(weights), next(weights))
        if self.has_static:
            inputs = inputs + F.linear(rest[0].flatten(1), next(weights))
        recurrent, output = next(weights), tuple(weights)
        first_time = not self.again
        if first_time:
            self.begun = self.carried
        state = self.first_state(x, rest[len(rest) - self.exposed :])
        outputs = []
        for step, keep in zip(inputs, cont[..., None]):
            state = self.step(state, step + F.linear(keep * state[0], recurrent), keep)
            outputs.append(torch.tanh(F.linear(state[0], *output)) if output else state[0])
        if first_time:
            self.carried = [s.detach() for s in state]
        return (torch.stack(outputs), *(s[None].detach() for s in state[: self.exposed]))

    def first_state(self, x, given):
        shape = (x.shape[1], self.field('num_output'))
        if given:
            return [g.detach().reshape(shape) for g in given]
        if self.begun is None or self.begun[0].shape != shape:
            return [x.new_zeros(shape) for _ in range(self.states)]
        return [s.to(x.device) for s in self.begun]


@layer('RNN', 'recurrent_param', nondiff=(1,))
class RNN(_Recurrent):
    """h = tanh(W_hh (cont h) + W_xh x + b_h); output tanh(W_ho h + b_o). Blobs W_xh, b_h, (W_xh of the
    constant input,) W_hh, W_ho, b_o."""

    has_output = True

    def step(self, state, total, keep):
        return [torch.tanh(total)]


@layer('LSTM', 'recurrent_param', nondiff=(1,))
class LSTM(_Recurrent):
    """Output h of lstm_unit, gates W_hc (cont h) + W_xc x + b_c. Blobs W_xc, b_c, (W_xc of the constant
    input,) W_hc; states h, c. Donahue et al., 2015."""

    states = 2
    gates = 4

    def step(self, state, total, keep):
        return lstm_unit(state[1], total, keep)[::-1]


def lstm_unit(cell, gates, keep):
    """(c, h): c = keep f c_prev + i g, h = o tanh(c); gates (..., 4 H) hold i, f, o (before sigmoid) and g
    (before tanh)."""
    i, f, o, g = gates.chunk(4, -1)
    cell = keep * torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return cell, torch.sigmoid(o) * torch.tanh(cell)


@layer('LSTMUnit', nondiff=(2,))
def lstm_unit_layer(cell, gates, cont):
    """One step of LSTM: c_prev (1, N, H), gates (1, N, 4 H), cont (1, N) -> c, h, both (1, N, H)."""
    if gates.shape[-1] != 4 * cell.shape[-1]:
        raise ValueError(
            f'gates must be four times as wide as the cell, {cell.shape[-1]}; got {gates.shape[-1]}'
        )
    return lstm_unit(cell, gates, cont.reshape(cell.shape[:-1] + (1,)))
