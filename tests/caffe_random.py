"""Caffe's random stream, so that a net built by a recorded run starts from the weights it had there.

Caffe's fillers draw on the CPU, from boost::mt19937. A uniform number is a word scaled. A normal one is
Boost's (1.56 or later): a ziggurat (Marsaglia and Tsang, 2000) of 128 layers over the density, whose tail
takes exponential draws from one of 256. All arithmetic is float32, as there. tests/test_caffe_random.py holds
it to recorded weights.
"""

import contextlib
import math

import numpy as np
import torch
from caffe import filler

F = np.float32


def layers(count, start, density, tail_area):
    """Edges x and heights y of `count` layers of equal area, the lowest with the tail beyond `start`."""
    area = start * density(start) + tail_area
    x = [area / density(start), start]
    for _ in range(2, count):
        x.append(_inverse(density, density(x[-1]) + area / x[-1]))
    return np.array(x + [0.0]), np.array([0.0] + [density(v) for v in x[1:]] + [1.0])


def normal_density(x):
    return math.exp(-x * x / 2)


def exponential_density(x):
    return math.exp(-x)


def _inverse(density, y):
    return math.sqrt(-2 * math.log(y)) if density is normal_density else -math.log(y)


NORMAL_START, EXPONENTIAL_START = 3.4426198558966521214, 7.69711747013104972
NORMAL_X, NORMAL_Y = layers(
    128, NORMAL_START, normal_density, math.sqrt(math.pi / 2) * math.erfc(NORMAL_START / math.sqrt(2))
)
NORMAL_X32 = NORMAL_X.astype(F)
EXPONENTIAL_X, EXPONENTIAL_Y = layers(
    256, EXPONENTIAL_START, exponential_density, exponential_density(EXPONENTIAL_START)
)


class CaffeRandom:
    """The stream of one seed; drawn: how many numbers it has given."""

    def __init__(self, seed):
        self._bits = np.random.RandomState(seed)
        self._words = np.zeros(0, np.uint32)
        self.drawn = 0

    def uniform(self, count, low, high):
        """count draws of U(low, high), float32."""
        low, high = F(low), np.nextafter(F(high), F(np.inf))
        words = np.array([self._word() for _ in range(count)], np.uint32)
        self.drawn += count
        return words.astype(F) / F(2.0**32) * (high - low) + low

    def normal(self, count):
        """count draws of N(0, 1), float32."""
        self.drawn += count
        parts, have = [], 0
        while have < count:
            parts.append(self._straight(count - have))
            have += len(parts[-1])
            if have < count:
                value = self._slow_normal()
                if value is not None:
                    parts.append(np.array([value], F))
                    have += 1
        return np.concatenate(parts or [np.zeros(0, F)])

    def _straight(self, count):
        """Up to count draws, as long as each is decided by one word: its point lies in its layer's core."""
        count = min(count, 128)  # a draw in 36 ends the run
        self._reserve(count)
        words = self._words[:count]
        layer = (words & 255) >> 1
        x = _fraction(words) * NORMAL_X32[layer]
        outside = np.flatnonzero(x >= NORMAL_X32[layer + 1])
        end = outside[0] if len(outside) else len(words)
        self._words = self._words[end:]
        return x[:end] * ((words[:end] & 1).astype(F) * 2 - 1)

    def _slow_normal(self):
        """One draw whose first word falls outside the core; None if it is rejected."""
        word = self._word()
        layer, sign = (word & 255) >> 1, F((word & 1) * 2 - 1)
        x = F(_fraction(word) * NORMAL_X32[layer])
        if x < NORMAL_X32[layer + 1]:
            return x * sign
        if layer == 0:
            return self._normal_tail() * sign
        return x * sign if self._under(x, layer, NORMAL_Y, normal_density) else None

    def _normal_tail(self):
        while True:
            x = F(self._exponential() / F(NORMAL_START))
            if 2 * self._exponential() > x * x:
                return F(x + F(NORMAL_START))

    def _exponential(self):
        shift = F(0)
        while True:
            word = self._word()
            layer = word & 255
            x = F(_fraction(word) * F(EXPONENTIAL_X[layer]))
            if x < F(EXPONENTIAL_X[layer + 1]):
                return F(shift + x)
            if layer == 0:
                shift = F(shift + F(EXPONENTIAL_START))
            elif self._under(x, layer, EXPONENTIAL_Y, exponential_density):
                return F(x + shift)

    def _under(self, x, layer, heights, density):
        """Whether a point drawn at height within the layer lies under the density at x."""
        y = F(F(heights[layer]) + self._uniform() * F(heights[layer + 1] - heights[layer]))
        return y < F(density(float(x)))

    def _uniform(self):
        while True:
            value = F(F(self._word()) * F(2.0**-32))
            if value < 1:
                return value

    def _word(self):
        self._reserve(1)
        word, self._words = int(self._words[0]), self._words[1:]
        return word

    def _reserve(self, count):
        if len(self._words) < count:
            fresh = self._bits.randint(0, 2**32, 65536, np.uint32)
            self._words = np.concatenate([self._words, fresh])


def _fraction(word):
    """The upper 24 bits of a word as a float32 in [0, 1)."""
    return np.asarray(word >> 8, F) * F(2.0**-24)


@contextlib.contextmanager
def caffe_fillers(stream):
    """Let the engine's fillers draw from a CaffeRandom; those that are not known to agree raise."""

    def gaussian(shape, param):
        if param.sparse >= 0:
            raise ValueError('a sparse gaussian filler is not replayed')
        return _tensor(shape, stream.normal(math.prod(shape)) * F(param.std) + F(param.mean))

    def msra(shape, param):
        std = F(math.sqrt(F(2) / F(filler._fan(shape, param))))
        return _tensor(shape, stream.normal(math.prod(shape)) * std)

    def uniform(shape, param):
        return _tensor(shape, stream.uniform(math.prod(shape), param.min, param.max))

    def xavier(shape, param):
        limit = F(math.sqrt(F(3) / F(filler._fan(shape, param))))
        return _tensor(shape, stream.uniform(math.prod(shape), -limit, limit))

    def positive_unitball(shape, param):
        raise ValueError('a positive_unitball filler is not replayed')

    before = dict(filler.FILLERS)
    known = gaussian, msra, uniform, xavier, positive_unitball
    filler.FILLERS.update({function.__name__: function for function in known})
    try:
        yield
    finally:
        filler.FILLERS.update(before)


def _tensor(shape, values):
    return torch.from_numpy(values).reshape(shape)
