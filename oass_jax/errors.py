"""Errors that a user can correct, and the hint that goes with them."""

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

# Of files and disks, where no bug is likely.
_OF_THE_SYSTEM = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE),
)


class UserError(Exception):
    """An error that a user can correct: one sentence that says what is wrong and what to do.

    The commands print it as one line and leave with exit status 2; anything else is a bug and
    keeps its traceback. It takes one string, so that it survives the way out of a worker process.
    """


class DivergedError(Exception):
    """Losses or gradients were not finite, step after step; one sentence on where and what to try.

    Attributes:
      status: exit status of the command.
    """

    status = 71


class StoppedError(Exception):
    """A run was asked to stop and has saved its state.

    Attributes:
      status: exit status of the command, that of a temporary failure: start it again.
    """

    status = 75

    def __init__(self, step: int):
        super().__init__(f"stopped and saved at step {step}; the same command continues from there")


class LostProcessError(Exception):
    """Another process of the run ended or hangs; one sentence on what to do.

    Attributes:
      status: exit status of the command, that of a temporary failure: start all processes again.
    """

    status = 75


class EvaluationStoppedError(Exception):
    """An evaluation was left because the run was asked to stop; it is made up for at the start."""


def of_the_system(error: BaseException) -> UserError | None:
    """What an error of files or disks means for a user; None where it may be a bug."""
    if not isinstance(error, OSError) or error.errno not in _OF_THE_SYSTEM:
        return None
    return UserError(f"{error.filename or 'the output'} cannot be used: {error.strerror}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for the message: the known word most like a wrong one, or else all there are."""
    known = sorted(known)
    longer = [name for name in known if word and name.startswith(word)]
    similar = longer or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {similar[0]}?" if similar else f"there are {', '.join(known) or 'none'}"


def nearest_path(path: Path) -> str:
    """A hint for the message: what lies beside a path that there is not, if its name is similar."""
    names = [sibling.name for sibling in path.parent.glob("*")]
    similar = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"did you mean {path.parent / similar[0]}?" if similar else "check the path"


def first_line(error: BaseException) -> str:
    """What a library's error says, without what some go on with; its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
