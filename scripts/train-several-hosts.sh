#!/usr/bin/env bash
# Train on the IPUs of several hosts, in instances that PopRun starts over MPI; run it on the first.
#
#   HOSTS=host0,host1 NETWORK=10.1.0.0/16 scripts/train-several-hosts.sh --config FILE [arguments]
#
# All hosts need this folder, the virtual environment with Horovod (`make horovod`), the SDK and the
# data at the same paths, and ssh between them without a password. What may be set: INSTANCES (two for
# each host), NETWORK (between the hosts; MPI chooses), PARTITION (of V-IPU; PopRun finds one), CACHE
# (runs/cache, which all hosts must see), PORT (29400, where the instances meet on the first host),
# PYTHON (.venv/bin/python), DRY_RUN=1 (print the command alone).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${HOSTS:?is not set; give the host servers, this one first, such as HOSTS=host0,host1}"
IFS=, read -r -a hosts <<<"$HOSTS"
python="${PYTHON:-.venv/bin/python}"
export IPU_APP_MEET="${hosts[0]}:${PORT:-29400}"

# one word a line; a failure ends this script, which it would not inside < <(...)
printed="$("$python" -m app.pod --instances "${INSTANCES:-$((2 * ${#hosts[@]}))}" --hosts "$HOSTS" \
  --network "${NETWORK:-}" --partition "${PARTITION:-}" --cache "${CACHE:-runs/cache}" -- "$@")"
mapfile -t words <<<"$printed"
words+=("$python" -m app train --backend ipu "$@")

if [[ -n "${DRY_RUN:-}" ]]; then
  printf '%s\n' "IPU_APP_MEET=$IPU_APP_MEET" "${words[@]}"
else
  exec "${words[@]}"
fi
