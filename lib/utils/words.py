"""What somebody may have meant who wrote a word that is not known."""

import difflib


def nearest(word, known):
    """The entry of known most like word, whatever the case of letters; '' if known is empty."""
    lower = {str(entry).lower(): str(entry) for entry in known}
    found = difflib.get_close_matches(str(word).lower(), lower, 1, 0.0)
    return lower[found[0]] if found else ''
