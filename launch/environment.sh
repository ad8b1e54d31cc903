# Sourced by the other scripts: sets PYTHON to an interpreter that has what is asked for.
#
# An active virtual environment is used, or PYTHON if it is set; otherwise .venv is made here.
# What was installed is remembered in the environment by the requirements' checksum, so that a
# second run installs nothing.

caller="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# from_caller PATH: what it meant where the script was called
from_caller() {
  case "$1" in /*) echo "$1" ;; *) echo "$caller/$1" ;; esac
}

# is_supported PYTHON
is_supported() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in python3 python3.12 python3.11 python3.13 python; do
    if is_supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python" >&2
  return 2
}

# install FILE...: requirement files
install() {
  local stamp file
  stamp="$("$PYTHON" -c 'import sys; print(sys.prefix)')/.oass_jax_installed"
  for file in "$@"; do
    if ! grep -qxsF "$(cksum "$file")" "$stamp"; then
      echo "installing $file into $(dirname "$stamp")" >&2
      "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$file"
      # Where that is not ours to write to, pip looks again the next time.
      cksum "$file" >> "$stamp" 2>/dev/null || true
    fi
  done
}

if [[ "${PYTHON:-}" == */* ]]; then
  PYTHON="$(from_caller "$PYTHON")"
elif [ -z "${PYTHON:-}" ] && [ -n "${VIRTUAL_ENV:-}" ]; then
  PYTHON="$VIRTUAL_ENV/bin/python"
elif [ -z "${PYTHON:-}" ]; then
  if [ ! -x .venv/bin/python ]; then
    python="$(find_python)"
    "$python" -m venv .venv
  fi
  PYTHON=.venv/bin/python
fi
if ! is_supported "$PYTHON"; then
  echo "error: $PYTHON is not Python 3.11 or newer; name one with PYTHON=/path/to/python" >&2
  exit 2
fi
