#!/usr/bin/env bash
# Trains configs/demo.py on scenes of real handwriting and prints the result.
#   bash launch/demo.sh [WORKDIR]
set -euo pipefail
workdir="$(realpath -m "${1:-runs/demo}")"
source "$(dirname "$0")/environment.sh"
install requirements.txt
exec "$PYTHON" -m oass_jax.main --config=configs/demo.py --workdir="$workdir" "${@:2}"
