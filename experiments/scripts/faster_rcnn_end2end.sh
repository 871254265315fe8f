#!/usr/bin/env bash
# Faster R-CNN end to end (approximate joint training): GPU NET DATASET [--max_iters N] [--set KEY=VALUE ...]
source "$(dirname "$0")/common.sh" faster_rcnn_end2end "$@"
