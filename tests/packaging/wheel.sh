#!/usr/bin/env bash
# The wheel in an environment of its own: everything it needs is inside, and the demo runs from any folder.
# Arguments are passed to `uv pip install` (--find-links DIR, for example). BIN: where uv is.
set -euo pipefail
unset PYTHONPATH  # a checkout on it would be imported in place of the wheel
cd "$(dirname "$0")/../.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What would be committed now, not the last commit. A copy of the index keeps the index itself as it is.
mkdir "$work/source"
cp "$(git rev-parse --git-path index)" "$work/index"
GIT_INDEX_FILE=$work/index git add --all
GIT_INDEX_FILE=$work/index git checkout-index --all --prefix="$work/source/"
"$BIN/uv" build --quiet --out-dir "$work/dist" "$work/source"
ls "$work"/dist/*.tar.gz >/dev/null
"$BIN/uv" venv --quiet "$work/env"
VIRTUAL_ENV="$work/env" "$BIN/uv" pip install --quiet "$@" -c "$root/requirements.txt" "$work"/dist/*.whl
mkdir "$work/elsewhere"
cd "$work/elsewhere"
dlmbench=$work/env/bin/dlmbench
"$dlmbench" --version
"$dlmbench" list --json >list.json
"$dlmbench" plan --config config/experiments.yaml --hardware "H100 SXM" >plan.txt
"$dlmbench" demo --max-prompts 2 --output-dir demo
for made in records.jsonl raw_metrics.csv report.md report.html figures; do
  [ -e "demo/$made" ] || { echo "the demo made no $made" >&2; exit 1; }
done
echo "the wheel runs by itself"
