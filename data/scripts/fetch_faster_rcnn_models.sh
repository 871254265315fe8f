#!/bin/sh
# Where they come from, and whether they lie here
exec "$(dirname "$0")/fetch.py" faster_rcnn_models "$@"
