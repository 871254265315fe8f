#!/usr/bin/env bash
# Mask R-CNN end to end, on a dataset whose objects have masks: GPU NET DATASET [--max_iters N] [--set KEY VALUE ...]
source "$(dirname "$0")/common.sh" mask_rcnn_end2end "$@"
