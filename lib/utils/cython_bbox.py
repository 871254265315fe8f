"""bbox_overlaps, compiled where lib/setup.py has been run, in numpy otherwise. Both give the same numbers."""

try:
    from utils._bbox import bbox_overlaps
except ImportError:
    from utils.bbox import bbox_overlaps

__all__ = ['bbox_overlaps']
