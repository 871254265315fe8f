#!/usr/bin/env bash
# R-FCN end to end with online hard example mining: GPU NET DATASET [--max_iters N] [--set KEY=VALUE ...]
source "$(dirname "$0")/common.sh" rfcn_end2end_ohem "$@"
