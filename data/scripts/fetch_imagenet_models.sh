#!/bin/sh
# Where they come from, and whether they lie here
exec "$(dirname "$0")/fetch.py" imagenet_models "$@"
