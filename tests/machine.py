"""A folder with a copy of `launch/` and programs in place of those that it would call."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
# A call is added by one write, as several programs may call at once.
STAND_IN = """#!/usr/bin/env bash
CALL="$(mktemp)"
printf '%s\\0' "$@" $'\\n' > "$CALL"
cat "$CALL" >> "$CALLS/${0##*/}"
rm "$CALL"
"""
# All but the processes of a run is left to Python; nothing is installed.
PYTHON = """
case "$1 ${2:-}" in
  "-c "*"sys.prefix"*) echo "$HOME"; exit ;;
  "-m pip") exit ;;
  "-m oass_jax.main") ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


class Machine:
    """A folder with a copy of `launch/`, programs that stand in for others, and their calls."""

    def __init__(self, root):
        self.root = root
        shutil.copytree(LAUNCH, root / "launch")
        for name in ("calls", "bin", "home"):
            (root / name).mkdir()
        self.env = {
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "HOME": str(root / "home"),
            "CALLS": str(root / "calls"),
            "PYTHON": sys.executable,
        }

    def stand_in(self, name, body="", folder="bin"):
        path = self.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STAND_IN + body)
        path.chmod(0o755)

    def calls(self, name):
        path = self.root / "calls" / name
        text = path.read_text() if path.exists() else ""
        return [call.split("\0") for call in text.split("\0\n\0")[:-1]]

    def bash(self, *words, cwd=None, **env):
        # A shell may have started pytest with these ignored, which bash would keep.
        command = ["env", "--default-signal=INT,TERM,HUP", "bash", *words]
        return subprocess.run(
            command,
            cwd=cwd or self.root,
            env=self.env | env,
            capture_output=True,
            text=True,
            start_new_session=True,  # a terminal's signal goes to all of a group
        )

    def python_in_place(self, process):
        """Lets `launch/` use a Python of which a process of a run does `process`, in bash."""
        self.stand_in("python", PYTHON + process)
        (self.root / "requirements.txt").touch()
        python = self.root / "bin" / "python"
        self.env |= {"PYTHON": str(python), "REAL_PYTHON": sys.executable}
        self.env["CUDA_VISIBLE_DEVICES"] = ""
