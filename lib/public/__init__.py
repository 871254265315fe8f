"""What is to be had from others: weights (weights), lists (lists), datasets and archives of weights (sources), each a table by
name; check says what lies here. Nothing here imports more than Python's own library: data/scripts/fetch.py needs no other.

A row says what is known, and None where it is not: no size, digest or licence is made up.
"""
