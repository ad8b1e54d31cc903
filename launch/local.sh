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

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || fail "bash 5.1 or newer is needed"

is_number() {
  [[ "$1" =~ ^[1-9][0-9]{0,3}$ ]]
}

number="" restarts=3 workdir="" words=()
while [ $# -gt 0 ]; do
  case "$1" in
    -n) number="${2:-}" ;;
    --restarts) restarts="${2:-}" ;;
    --workdir=*)
      workdir="$(from_caller "${1#*=}")"
      words+=("--workdir=$workdir")
      ;;
    *) words+=("$1") ;;
  esac
  case "$1" in -n | --restarts) shift ;; esac
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
  num_gpus="$(nvidia-smi --list-gpus | wc -l)"
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
    env ${gpus:+"JAX_LOCAL_DEVICE_IDS=$gpus"} JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" \
      JAX_NUM_PROCESSES="$number" JAX_PROCESS_ID="$index" \
      "$PYTHON" -m oass_jax.main --distributed "${words[@]}" &
    pids[index]=$!
  done
  [ -z "$stopping" ] || stop_all
}

# wait_for_all: sets `status`, that of the process that failed first or 0, and `first`, its number
wait_for_all() {
  local running=("${pids[@]}") timer="" ended left pid each
  status=0 first=""
  while [ ${#running[@]} -gt 0 ]; do
    ended="" each=0
    wait -n -p ended "${running[@]}" $timer || each=$?
    [ -n "${ended:-}" ] || continue # a signal came
    if [ "$ended" = "$timer" ]; then
      kill -KILL "${running[@]}" 2> /dev/null || true
      timer=""
      continue
    fi
    left=()
    for pid in "${running[@]}"; do
      [ "$pid" = "$ended" ] || left+=("$pid")
    done
    running=(${left[@]+"${left[@]}"})
    if [ "$each" -ne 0 ] && [ "$status" -eq 0 ]; then
      status="$each"
      for first in "${!pids[@]}"; do
        [ "${pids[first]}" != "$ended" ] || break
      done
    fi
    if [ -z "$timer" ] && [ ${#running[@]} -gt 0 ]; then
      sleep "$end_s" &
      timer=$!
    fi
  done
  [ -z "$timer" ] || kill "$timer" 2> /dev/null || true
}

stop_all() {
  stopping=yes
  kill -TERM ${pids[@]+"${pids[@]}"} 2> /dev/null || true
}

install requirements.txt
stopping="" pids=() in_vain=0
trap stop_all INT TERM HUP
while true; do
  before="$(newest_step "$workdir")"
  start_all
  wait_for_all
  if [ "$status" -eq 0 ] || [ -n "$stopping" ]; then
    exit "$status"
  fi
  if [ "$status" -ne 75 ] && [ "$status" -lt 128 ]; then
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
