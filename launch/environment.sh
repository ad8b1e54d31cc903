# Sourced by the other scripts: sets PYTHON to an interpreter that has what is asked for.
#
# An active virtual environment is used, or PYTHON if it is set; otherwise .venv is made here.
# What was installed is remembered in the environment by the requirements' checksum, so that a
# second run installs nothing.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in python3 python3.12 python3.11 python3.13 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python" >&2
  return 1
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

if [ -z "${PYTHON:-}" ]; then
  if [ -n "${VIRTUAL_ENV:-}" ]; then
    PYTHON="$VIRTUAL_ENV/bin/python"
  else
    if [ ! -x .venv/bin/python ]; then
      python="$(find_python)"
      "$python" -m venv .venv
    fi
    PYTHON=.venv/bin/python
  fi
fi
