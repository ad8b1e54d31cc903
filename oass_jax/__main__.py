"""`oass`, and `python -m oass_jax`: leads to the commands."""

import importlib
import sys
from collections.abc import Sequence

from oass_jax import command_line
from oass_jax.errors import UserError, nearest

# Name -> its module, and what it does. A command is imported when it is called.
COMMANDS = {
    "main": ("oass_jax.main", "train, or evaluate a run; needs no name: oass --config=max ..."),
    "app": ("oass_jax.app", "look at a finished run in the browser"),
    "figure": ("oass_jax.figure", "the paper's figures, from data and finished runs"),
    "predict": ("oass_jax.predict", "predict images with a finished run"),
    "prepare": ("oass_jax.prepare", "prepare a data set ahead of time"),
    "report": ("oass_jax.report", "a page of numbers, curves and images of a finished run"),
    "sweep": ("oass_jax.sweep", "train many configs and seeds"),
    "table": ("oass_jax.table", "the paper's tables from finished runs"),
}


@command_line.command
def main(argv: Sequence[str]) -> int | None:
    """Calls the command that the first word names."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: oass [COMMAND] [flags]; each has --help\n")
        for name, (_, text) in COMMANDS.items():
            print(f"  oass {name:<9}{text}")
        return 0
    if argv[0].startswith("-"):
        argv = ["main", *argv]
    if argv[0] not in COMMANDS:
        raise UserError(f"{argv[0]} is not a command: {nearest(argv[0], COMMANDS)}")
    module, _ = COMMANDS[argv[0]]
    return importlib.import_module(module).main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
