# What the recipes share. A recipe sets METHOD and sources this with its arguments, and has then:
#   GPUS NET DATASET    the first three; GPU the first of GPUS; OPTIONS and SETTINGS the rest, before and from
#                       --set on
#   PYTHON LOG          the interpreter; the run's log
#   MODELS CFG TRAIN_IMDB TEST_IMDB MAX_ITERS STAGES WEIGHTS     from tools/prepare.py
set -euo pipefail
CALLED_FROM=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONUNBUFFERED=1

if [ $# -lt 3 ]; then
  cat >&2 <<USAGE
usage: $0 GPUS NET DATASET [options of the training tool] [--set KEY VALUE ...]
  GPUS     cpu, or a GPU's number, or several as 0,1
  NET      ResNet-101, ResNet-50, VGG16, VGG_CNN_M_1024, ZF, ResNet-10
  DATASET  pascal_voc, imagenet, or your own: the path of its YAML file; after the first time its name will do
USAGE
  exit 2
fi
GPUS=$1 NET=$2 DATASET=$3
GPU=${GPUS%%,*}
if [[ $DATASET != /* && -f $CALLED_FROM/$DATASET ]]; then DATASET=$CALLED_FROM/$DATASET; fi
shift 3
OPTIONS=()
while [ $# -gt 0 ] && [ "$1" != --set ]; do OPTIONS+=("$1"); shift; done
SETTINGS=("$@")

PYTHON=${PYTHON:-.venv/bin/python}
if ! command -v "$PYTHON" >/dev/null; then
  echo "$PYTHON: no such program; run 'make all' first, or set PYTHON" >&2
  exit 1
fi
PREPARED=$("$PYTHON" tools/prepare.py "$NET" "$DATASET" "$METHOD")
eval "$PREPARED"

LOG="experiments/logs/${METHOD}_${NET}_$(basename "$DATASET").txt.$(date +%Y-%m-%d_%H-%M-%S)"
echo "Logging output to $LOG"

# Runs a tool; what it prints goes to the terminal and to the log.
logged() {
  echo "+ $*" | tee -a "$LOG"
  "$@" 2>&1 | tee -a "$LOG"
}

# PATH of the last line '$1: PATH' in the log.
reported() {
  sed -n "s/^$1: //p" "$LOG" | tail -n 1
}
