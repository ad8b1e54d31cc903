#!/usr/bin/env bash
# Lint, format and tests.
#   bash launch/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements.txt tests/requirements.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest "$@"
