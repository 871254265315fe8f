"""The state of the random generators that a training draws by: numpy's, Python's and torch's."""

import random

import numpy as np
import torch


def generators():
    """The state of this worker's random generators, as arrays; the GPU's is empty where none is in use."""
    _, keys, *numbers = np.random.get_state()
    gpu = torch.cuda.get_rng_state().numpy() if torch.cuda.is_initialized() else np.zeros(0, np.uint8)
    return {
        'keys': keys,
        'numpy': numbers,
        'python': random.getstate()[1],
        'torch': torch.get_rng_state().numpy(),
        'gpu': gpu,
    }


def set_generators(state):
    position, has_gauss, gauss = state['numpy']
    np.random.set_state(('MT19937', state['keys'], int(position), int(has_gauss), gauss))
    random.setstate((3, tuple(np.asarray(state['python']).tolist()), None))
    torch.set_rng_state(torch.from_numpy(state['torch']))
    if len(state['gpu']) and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(torch.from_numpy(state['gpu']))
