"""Work shared among forked processes, which inherit what they need: nothing is pickled on its way in."""

import os


def in_processes(function, count, processes=None):
    """function(0) ... function(count - 1), in that order, computed in so many processes; one: in this one.

    processes: default one a core that this process may use, at most 16. An OSError or ValueError of the function is
    raised here as it is; a process that dies raises RuntimeError. No draws from any generator of this process.
    """
    processes = min(processes or len(os.sched_getaffinity(0)), 16, count)
    if processes < 2:
        yield from map(function, range(count))
    else:
        yield from _forked(function, count, processes)


def apart(function):
    """function(), computed in a process of its own: where that dies, RuntimeError is raised here."""
    return next(_forked(lambda i: function(), 1, 1))


def _forked(function, count, processes):
    import torch.utils.data  # where it is needed: it takes seconds

    loader = torch.utils.data.DataLoader(
        _Calls(function, count),
        batch_size=None,
        collate_fn=_same,
        num_workers=processes,
        multiprocessing_context='fork',
        generator=torch.Generator(),
    )
    for result, error in loader:
        if error is not None:
            raise error
        yield result


class _Calls:
    """A data set of a function's results and errors."""

    def __init__(self, function, count):
        self.function, self.count = function, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        try:
            return self.function(i), None
        except (OSError, ValueError) as error:
            return None, error


def _same(sample):
    return sample
