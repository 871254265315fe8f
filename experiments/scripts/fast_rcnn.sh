#!/usr/bin/env bash
# Fast R-CNN on given proposals (selective search): GPU NET DATASET [--max_iters N] [--set KEY=VALUE ...]
source "$(dirname "$0")/common.sh" fast_rcnn "$@"
