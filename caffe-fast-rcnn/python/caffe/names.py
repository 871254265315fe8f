"""names: what to say to a name that nobody knows."""

import collections
import difflib


def did_you_mean(name, known):
    """'; did you mean A or B?', the nearest of the known names, or ''."""
    near = difflib.get_close_matches(name, known, 2, 0.5) if isinstance(name, str) else []
    return f'; did you mean {" or ".join(near)}?' if near else ''


class Names(collections.OrderedDict):
    """Things by name. KeyError of an unknown one says what was looked for, and the nearest."""

    def __init__(self, items=(), what='name'):
        super().__init__(items)
        self.what = what

    def __missing__(self, name):
        raise KeyError(f'no {self.what} {name!r}' + did_you_mean(name, self))
