"""A page about a training: what it was told, how it went, what its detector gets wrong. tools/report.py writes it.

run: which files are whose. charts: drawings, as SVG. pictures: pictures with boxes. page: all of it, by page.html, into one file.
"""
