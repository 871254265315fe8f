"""Image files, their headers looked at before room is made for pixels."""

import struct

from PIL import Image, UnidentifiedImageError

SMALL = 2**24  # pixels that any file may claim: some of it may be cut off
MOST = 1000  # pixels that one byte of a larger file can stand for: more than flat areas of JPEG and PNG take

# What Pillow raises of files that are cut off or make no sense, besides UnidentifiedImageError
BROKEN = OSError, SyntaxError, ValueError, IndexError, MemoryError, struct.error, Image.DecompressionBombError


def check_size(source, length, name):
    """ValueError where an image file claims more pixels than its `length` bytes can hold. source: its path or a
    binary stream. What is no image at all is left to whoever decodes it."""
    try:
        with Image.open(source) as image:
            width, height = image.size
    except (UnidentifiedImageError, FileNotFoundError):
        return
    except BROKEN as error:
        raise ValueError(f'{name}: not an image that can be read ({error})') from None
    if width * height > max(SMALL, MOST * length):
        raise ValueError(f'{name}: {width}x{height} pixels, it says, but it has only {length} bytes')
