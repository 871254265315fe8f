#!/usr/bin/env bash
# Faster R-CNN by alternating optimization: GPU NET DATASET [--max_iters N ...] [--stages 1|2] [--set KEY=VALUE ...]
source "$(dirname "$0")/common.sh" faster_rcnn_alt_opt "$@"
