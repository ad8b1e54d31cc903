#!/usr/bin/env bash
# Lint, format and tests.
#   bash launch/test.sh [PYTEST ARGUMENTS]
# Tests run on every core; -n0 keeps them in one process, as a debugger needs it.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements.txt tests/requirements.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
workers=(-n auto --dist worksteal)
# Without the plugin its options are unknown.
case " $* " in *no:xdist*) workers=() ;; esac
exec "$PYTHON" -m pytest ${workers[@]+"${workers[@]}"} "$@"
