#!/usr/bin/env bash
# Fast R-CNN on given proposals (selective search): trains, tests.
#   experiments/scripts/fast_rcnn.sh GPUS NET DATASET [--iters N] [--set KEY VALUE ...]
METHOD=fast_rcnn
source "$(dirname "$0")/common.sh"

logged "$PYTHON" tools/train_net.py --gpu "$GPUS" --solver "$MODELS/solver.prototxt" \
  ${WEIGHTS:+--weights "$WEIGHTS"} --imdb "$TRAIN_IMDB" --cfg "$CFG" --iters "$MAX_ITERS" \
  "${OPTIONS[@]}" "${SETTINGS[@]}"
logged "$PYTHON" tools/test_net.py --gpu "$GPU" --def "$MODELS/test.prototxt" \
  --net "$(reported 'Final model')" --imdb "$TEST_IMDB" --cfg "$CFG" "${SETTINGS[@]}"
