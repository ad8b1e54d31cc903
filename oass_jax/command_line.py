"""The one face of all commands: an error is one line and exit status 2.

Nothing here imports jax, so that `--help` and every error answer at once.
"""

import argparse
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from oass_jax.errors import UserError, nearest, of_the_system

PREFIX = "--config."  # what a flag that sets a field of the config begins with


def print_error(message: str) -> None:
    """Prints an error on stderr, as every command does."""
    print(f"error: {message}", file=sys.stderr)


def fail(message: str) -> NoReturn:
    """Prints an error in one line and exits with status 2."""
    print_error(" ".join(message.split()))
    sys.exit(2)


def command(main: Callable[..., int | None]) -> Callable[..., int | None]:
    """Decorates the function of a command: a `UserError` is reported by `fail`, Ctrl-C in a word.

    Args:
      main: takes the command line without the program and returns the exit status.
    """

    @functools.wraps(main)
    def reporting(argv: Sequence[str] | None = None) -> int | None:
        try:
            return main(sys.argv[1:] if argv is None else argv)
        except UserError as error:
            fail(str(error))
        except OSError as error:
            if error.errno == errno.EPIPE:  # of a reader that has seen enough, such as `head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(128 + signal.SIGPIPE)
            if (reason := of_the_system(error)) is None:
                raise
            fail(str(reason))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)

    return reporting


def path(text: str) -> Path:
    """The path that a flag names; a shell expands no `~` behind `--flag=`."""
    return Path(os.path.expanduser(text))


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are a `UserError`, and name the nearest flag."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)
        self._commands: dict[str, Parser] = {}

    def add_subparsers(self, **kwargs: Any) -> Any:
        """As argparse; words after the name of a command are checked by its own parser."""
        action = super().add_subparsers(**kwargs)
        self._commands = action.choices
        return action

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """As argparse, but reports an unknown flag before one that is missing."""
        self.refuse_unknown(sys.argv[1:] if args is None else args)
        return super().parse_args(args, namespace)

    def refuse_unknown(self, words: Iterable[str]) -> None:
        """Reports a flag that there is not.

        Args:
          words: of a command line; those that are no flags are ignored.

        Raises:
          UserError: names the flag that is most like it.
        """
        known = [flag for action in self._actions for flag in action.option_strings]
        words = iter(words)
        for word in words:
            if word == "--":  # what follows are no flags
                return
            if word in self._commands:
                return self._commands[word].refuse_unknown(words)
            flag = word.partition("=")[0]
            is_flag = flag.startswith("--") or (flag.startswith("-") and flag[1:2].isalpha())
            if is_flag and flag not in known:
                raise UserError(f"{flag} is not a flag: {nearest(flag, known)}")

    def error(self, message: str) -> NoReturn:
        """Reports what argparse found."""
        raise UserError(message)
