#!/usr/bin/env bash
# One run as N processes on this machine, all started again where one of them was lost.
#   bash launch/local.sh -n N [--restarts R] --config=CONFIG --workdir=DIR [--config.FIELD=VALUE ...]
#
# The GPUs are shared evenly. Ctrl-C and SIGTERM save first. After status 75 or a death by signal, of
# the process that ends first, all start from the last checkpoint; but not after R (3) times in a
# row without a new one.
set -euo pipefail
case " $* " in *" --help "* | *" -h "*)
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit
  ;;
esac
source "$(dirname "$0")/environment.sh"
readonly end_s=60 # in which all have ended after the first of them, see docs/runs.md

fail() {
  echo "error: $*" >&2
  exit 2
}


is_number() {
  [[ "$1" =~ ^[1-9][0-9]{0,3}$ ]]
}

number="" restarts=3 workdir="" words=()
while [ $# -gt 0 ]; do
  case "$1" in
    -n) number="${2:-}" ;;
    --restarts) restarts="${2:-}" ;;
    *) words+=("$1") ;;
  esac
  case "$1" in
    -n | --restarts) shift ;;
    --workdir=*) workdir="$(from_caller "${1#*=}")" ;;
  esac
  [ $# -eq 0 ] || shift
done
is_number "$number" || fail "how many processes? -n N, such as -n 2"
is_number "$restarts" || [ "$restarts" = 0 ] || fail "--restarts R is a number, such as 3"
[ -n "$workdir" ] || fail "--workdir=DIR is missing: name a folder for the run"

# gpus_of INDEX: the GPUs of a process, as JAX_LOCAL_DEVICE_IDS takes them; nothing without any
gpus_of() {
  local each=$((num_gpus / number))
  [ "$each" -eq 0 ] || seq -s, $(($1 * each)) $((($1 + 1) * each - 1))
}

num_gpus=0
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  num_gpus="$(tr , '\n' <<< "$CUDA_VISIBLE_DEVICES" | wc -l)"
elif [ -z "${CUDA_VISIBLE_DEVICES+set}" ] && command -v nvidia-smi > /dev/null; then
  # It fails where there is no driver.
  num_gpus="$({ nvidia-smi --list-gpus 2> /dev/null || true; } | { grep -c '^GPU' || true; })"
fi
[ $((num_gpus % number)) -eq 0 ] ||
  fail "$number processes cannot share $num_gpus GPUs evenly: choose another -n, or set CUDA_VISIBLE_DEVICES"

# start_all: sets `pids`
start_all() {
  local index port gpus
  port="$("$PYTHON" -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])')"
  pids=()
  for ((index = 0; index < number; index++)); do
    gpus="$(gpus_of "$index")"
    (
      trap '' INT # a terminal's goes to the group, and the script passes it on
      [ -z "$gpus" ] || export JAX_LOCAL_DEVICE_IDS="$gpus"
      export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port"
      export JAX_NUM_PROCESSES="$number" JAX_PROCESS_ID="$index"
      exec_module oass_jax.main --distributed "${words[@]}"
    ) &
    pids[index]=$!
  done
  [ -z "$stopping" ] || stop_all
}

is_interrupted() {
  [ "$1" -eq 75 ] || [ "$1" -ge 128 ]
}

# wait_for_all: sets `status`, that of the process that failed first or 0, and `first`, its number.
# Of those that end at once an error counts, not that the others were interrupted by it.
wait_for_all() {
  local running=("${!pids[@]}") left index each known deadline=""
  status=0
  while [ ${#running[@]} -gt 0 ]; do
    sleep 0.2 || true # Ctrl-C ends it, too
    left=() known="$status"
    for index in "${running[@]}"; do
      if kill -0 "${pids[index]}" 2> /dev/null; then
        left+=("$index")
        continue
      fi
      each=0
      wait "${pids[index]}" || each=$?
      if [ "$known" -eq 0 ] && [ "$each" -ne 0 ] &&
        { [ "$status" -eq 0 ] || { is_interrupted "$status" && ! is_interrupted "$each"; }; }; then
        status="$each" first="$index"
      fi
    done
    if [ ${#left[@]} -lt ${#running[@]} ] && [ -z "$deadline" ]; then
      deadline=$((SECONDS + end_s))
    fi
    running=(${left[@]+"${left[@]}"})
    if [ -n "$deadline" ] && [ "$SECONDS" -gt "$deadline" ]; then
      for index in ${running[@]+"${running[@]}"}; do
        kill -KILL "${pids[index]}" 2> /dev/null || true
      done
    fi
  done
}

stop_all() {
  stopping=yes
  kill -TERM ${pids[@]+"${pids[@]}"} 2> /dev/null || true
}

install requirements.txt
# One machine has one cache, see launch/README.md.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR-${XDG_CACHE_HOME:-${HOME:-}/.cache}/oass_jax}"
stopping="" pids=() in_vain=0
trap stop_all INT TERM HUP
while true; do
  before="$(newest_step "$workdir")"
  start_all
  wait_for_all
  if [ -n "$stopping" ] || ! is_interrupted "$status"; then
    exit "$status"
  fi
  now="$(newest_step "$workdir")"
  in_vain=$((now > before ? 0 : in_vain + 1))
  if [ "$in_vain" -gt "$restarts" ]; then
    echo "error: not started again: no new checkpoint in $restarts restarts" >&2
    exit "$status"
  fi
  echo "process $first ended with status $status; all start again, after checkpoint $now" >&2
done
