#!/usr/bin/env bash
# Trains configs/demo.py on scenes of real handwriting, prints the result and writes a report.
#   bash launch/demo.sh [WORKDIR] [--config.FIELD=VALUE ...]
#
# The workdir is runs/demo where none is named. The same command continues.
set -euo pipefail
case " $* " in *" --help "* | *" -h "*)
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit
  ;;
esac
workdir=runs/demo
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
  workdir="$1"
  shift
fi
source "$(dirname "$0")/environment.sh"
install requirements.txt
(exec_module oass_jax.main --config=demo --workdir="$workdir" "$@")
(exec_module oass_jax.report --workdir="$workdir")
