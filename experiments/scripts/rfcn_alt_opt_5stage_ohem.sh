#!/usr/bin/env bash
# R-FCN in five stages with online hard example mining: GPU NET DATASET [--max_iters N ...] [--set KEY=VALUE ...]
source "$(dirname "$0")/common.sh" rfcn_alt_opt_5step_ohem "$@"
