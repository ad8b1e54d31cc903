#!/usr/bin/env bash
# Trains every row of the paper's tables with every seed, one after another, and prints the tables.
#   bash launch/table.sh RUNS_DIR [--config.FIELD=VALUE ...]
#
# A run lies in RUNS_DIR/ROW/seedN. The same command continues where it was stopped and skips what
# is finished; with other flags the runs are given to the program again. What fails is told at the
# end, with exit status 1. In the environment:
#   ROWS        pages of configs/, all of the tables by default: ROWS="puzzlecam max"
#   SEEDS       "0 1 2" by default; for a single row SEEDS_ROW: SEEDS=0 SEEDS_max="0 1 2"
#   TEST        data set whose test split Table 2 is made of: TEST=voc/2007; none by default
#   DEMO=1      the demo's small network and data instead, without the ResNet-101 rows
#   PAGE        what stands before the row in --config: configs/
set -euo pipefail
if [ $# -eq 0 ] || [[ "$1" == -* ]]; then
  echo "error: name a folder for the runs: bash launch/table.sh RUNS_DIR [FLAGS...]" >&2
  exit 2
fi
runs="$(realpath -m "$1")"
flags=("${@:2}")
source "$(dirname "$0")/environment.sh"
install requirements.txt

rows="ssgrl_r101 ssgrl mcar puzzlecam_r101 puzzlecam supervised
  gt_bbox gt_bbox_csi max max_csi cmax cmax_csi ctopk ctopk_csi ctopk_w ctopk_w_csi"
page="${PAGE:-configs/}" suffix=".py"
if [ -n "${DEMO:-}" ]; then
  page="configs/demo.py:" suffix=""
  # They would be the same small network once more.
  rows="${rows/ssgrl_r101 /}" rows="${rows/puzzlecam_r101 /}"
fi

# A signal ends the run, which saves, and then everything. A run is in the background because bash
# would hold the signal back as long as one in the foreground lasts. It is given the other signal:
# where it was sent the first one, too, that once more would tell it not to save. A second signal
# comes here again, and tells it so.
stop() {
  local number="$1" other="$2" run
  for run in $(jobs -pr); do
    kill -"$other" "$run" 2>/dev/null || true
    while kill -0 "$run" 2>/dev/null; do
      wait "$run" || true
    done
  done
  echo "stopped; the same command continues" >&2
  exit "$((128 + number))"
}
trap 'stop 1 TERM' HUP
trap 'stop 2 TERM' INT
trap 'stop 15 INT' TERM

# program ROW SEED FLAG...: exit status of the program
program() {
  local row="$1" seed="$2"
  set -m # otherwise bash has what is in the background ignore SIGINT
  "$PYTHON" -m oass_jax.main --config="$page$row$suffix" "${flags[@]}" --config.seed="$seed" \
    --workdir="$runs/$row/seed$seed" "${@:3}" &
  set +m
  wait "$!"
}

# train ROW SEED: trains, evaluates, and notes with what flags
train() {
  local row="$1" seed="$2" finished="$runs/$1/seed$2/.finished"
  local words="$page$suffix ${flags[*]} test=${TEST:-}"
  if [ "$(cat "$finished" 2>/dev/null)" = "$words" ]; then
    echo "== $row, seed $seed: finished" >&2
    return
  fi
  echo "== $row, seed $seed" >&2
  program "$row" "$seed" || return 1
  if [ -n "${TEST:-}" ]; then
    program "$row" "$seed" --mode=eval --config.eval.dataset="$TEST" --config.eval.split=test ||
      return 1
  fi
  echo "$words" > "$finished"
}

failed=()
for row in ${ROWS:-$rows}; do
  seeds="SEEDS_$row"
  for seed in ${!seeds:-${SEEDS:-0 1 2}}; do
    train "$row" "$seed" || failed+=("$row, seed $seed")
  done
done
"$PYTHON" -m oass_jax.table "$runs" --out="$runs" || failed+=("the tables")
if [ ${#failed[@]} -gt 0 ]; then
  echo "error: failed:" >&2
  printf '  %s\n' "${failed[@]}" >&2
  exit 1
fi
