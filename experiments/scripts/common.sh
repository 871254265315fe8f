# Runs tools/recipe.py with the set-up's Python, or the one that PYTHON names: METHOD GPU NET DATASET [options]
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
if ! command -v "$python" >/dev/null; then
  echo "$python: no such program; run 'make all' in $root first, or set PYTHON" >&2
  exit 1
fi
exec "$python" "$root/tools/recipe.py" "$@"
