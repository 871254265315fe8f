#!/usr/bin/env bash
# Faster R-CNN end to end (approximate joint training): trains, tests.
#   experiments/scripts/faster_rcnn_end2end.sh GPUS NET DATASET [--iters N] [--set KEY VALUE ...]
METHOD=faster_rcnn_end2end
source "$(dirname "$0")/common.sh"

logged "$PYTHON" tools/train_net.py --gpu "$GPUS" --solver "$MODELS/solver.prototxt" \
  ${WEIGHTS:+--weights "$WEIGHTS"} --imdb "$TRAIN_IMDB" --cfg "$CFG" --iters "$MAX_ITERS" \
  "${OPTIONS[@]}" "${SETTINGS[@]}"
logged "$PYTHON" tools/test_net.py --gpu "$GPU" --def "$MODELS/test.prototxt" \
  --net "$(reported 'Final model')" --imdb "$TEST_IMDB" --cfg "$CFG" "${SETTINGS[@]}"
