#!/usr/bin/env bash
# Train on the IPUs of one host, in several instances that PopRun starts.
#
#   scripts/train-one-host.sh --config FILE [arguments of `python -m app train`]
#
# It needs Horovod, by which the instances meet: `make horovod` builds it, once.
# What may be set: INSTANCES (2), PARTITION (of V-IPU; PopRun finds one), CACHE (runs/cache, compiled
# programs), PORT (29400, where the instances meet), PYTHON (.venv/bin/python), DRY_RUN=1 (print the
# command alone).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-.venv/bin/python}"
export IPU_APP_MEET="127.0.0.1:${PORT:-29400}"

# one word a line; a failure ends this script, which it would not inside < <(...)
printed="$("$python" -m app.pod --instances "${INSTANCES:-2}" --partition "${PARTITION:-}" \
  --cache "${CACHE:-runs/cache}" -- "$@")"
mapfile -t words <<<"$printed"
words+=("$python" -m app train --backend ipu "$@")

if [[ -n "${DRY_RUN:-}" ]]; then
  printf '%s\n' "IPU_APP_MEET=$IPU_APP_MEET" "${words[@]}"
else
  exec "${words[@]}"
fi
