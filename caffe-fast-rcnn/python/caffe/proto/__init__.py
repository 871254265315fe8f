"""Caffe's message format: caffe.proto and the Python code protoc 3.21 makes of it (loads under protobuf 4 and later)."""
