#!/bin/sh
# Where they come from, and whether they lie here
exec "$(dirname "$0")/fetch.py" selective_search_data "$@"
