#!/usr/bin/env bash
# Faster R-CNN by alternating optimization: trains, tests.
#   experiments/scripts/faster_rcnn_alt_opt.sh GPUS NET DATASET [--max_iters N ...] [--stages 1|2]
#     [--set KEY VALUE ...]
METHOD=faster_rcnn_alt_opt
source "$(dirname "$0")/common.sh"

logged "$PYTHON" tools/train_faster_rcnn_alt_opt.py --gpu "$GPUS" --net_name "$NET" \
  ${WEIGHTS:+--weights "$WEIGHTS"} --imdb "$TRAIN_IMDB" --cfg "$CFG" \
  --max_iters $MAX_ITERS --stages "$STAGES" "${OPTIONS[@]}" "${SETTINGS[@]}"

RPN=$(reported 'RPN model')
if [ -n "$RPN" ]; then    # one round: two nets, the one proposes and the other detects
  logged "$PYTHON" tools/rpn_generate.py --gpu "$GPU" --def "$MODELS/rpn_test.pt" --net "$RPN" \
    --imdb "$TEST_IMDB" --cfg "$CFG" "${SETTINGS[@]}"
  logged "$PYTHON" tools/test_net.py --gpu "$GPU" --def "$MODELS/fast_rcnn_test.pt" \
    --net "$(reported 'Final model')" --imdb "$TEST_IMDB" --cfg "$CFG" \
    --rpn_file "$(reported 'Proposals')" "${SETTINGS[@]}"
else
  logged "$PYTHON" tools/test_net.py --gpu "$GPU" --def "$MODELS/faster_rcnn_test.pt" \
    --net "$(reported 'Final model')" --imdb "$TEST_IMDB" --cfg "$CFG" "${SETTINGS[@]}"
fi
