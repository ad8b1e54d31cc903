# Sourced by the other scripts: sets PYTHON to an interpreter that has what is asked for.
#
# An active virtual environment is used, or PYTHON if it is set; otherwise .venv is made here.
# What was installed is remembered in the environment by the requirements' checksum, so that a
# second run installs nothing.

caller="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout="$PWD"

# from_caller PATH: what it means to a command that was started where the script was
from_caller() {
  case "$1" in
    /*) echo "$1" ;;
    \~/*) echo "$HOME/${1#\~/}" ;;
    *) echo "$caller/$1" ;;
  esac
}

# exec_module MODULE [ARGUMENT ...]: a command of the checkout in place of this shell, in the folder
# where the script was called, so that paths in its arguments mean what they say
exec_module() {
  cd "$caller"
  # Safe: what else is called oass_jax or numpy in that folder is not imported.
  export PYTHONSAFEPATH=1 PYTHONPATH="$checkout${PYTHONPATH:+:$PYTHONPATH}"
  exec "$PYTHON" -m "$@"
}

# is_supported PYTHON
is_supported() {
  # Of newer ones the index does not have every package.
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' > /dev/null 2>&1
}

# newest_step WORKDIR: of its checkpoints; -1 for none
newest_step() {
  local path newest=-1
  for path in "$1"/checkpoints/*/; do
    path="$(basename "$path")"
    [[ "$path" =~ [^0-9] ]] || newest=$((10#$path > newest ? 10#$path : newest))
  done
  echo "$newest"
}

find_python() {
  local candidate
  for candidate in python3 python3.12 python3.13 python3.14 python3.11 python; do
    if is_supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 to 3.14 is needed; name one with PYTHON=/path/to/python" >&2
  return 2
}

# install FILE...: requirement files
install() {
  local stamp file missing=()
  stamp="$("$PYTHON" -c 'import sys; print(sys.prefix)')/.oass_jax_installed"
  for file in "$@"; do
    grep -qxsF "$(cksum "$file")" "$stamp" || missing+=(-r "$file")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "installing $* into $(dirname "$stamp")" >&2
    # Most modules are never imported: each is compiled when it is.
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-compile "${missing[@]}"
    # Where that is not ours to write to, pip looks again the next time.
    for file in "$@"; do
      cksum "$file"
    done >> "$stamp" 2>/dev/null || true
  fi
}

if [[ "${PYTHON:-}" == */* ]]; then
  PYTHON="$(from_caller "$PYTHON")"
elif [ -z "${PYTHON:-}" ] && [ -n "${VIRTUAL_ENV:-}" ]; then
  PYTHON="$VIRTUAL_ENV/bin/python"
elif [ -z "${PYTHON:-}" ]; then
  if [ ! -x .venv/bin/python ]; then
    python="$(find_python)"
    is_new=true
    [ ! -e .venv ] || is_new=false
    if ! "$python" -m venv .venv; then
      ! "$is_new" || rm -rf .venv # half of one would be taken for a whole one
      echo "error: $python could not make .venv, see above; Debian and Ubuntu need python3-venv" >&2
      exit 2
    fi
  fi
  PYTHON="$checkout/.venv/bin/python"
fi
if ! is_supported "$PYTHON"; then
  echo "error: $PYTHON is not Python 3.11 to 3.14; name one with PYTHON=/path/to/python" >&2
  exit 2
fi
