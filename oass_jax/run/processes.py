"""The processes of one run: how they join, agree before the first step, and leave.

A run on several hosts is one process on each, all with the same command. A single process has
nothing to agree on, and every function here is then free.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from oass_jax.default_config import OF_HOST
from oass_jax.errors import LostProcessError, UserError, first_line, of_the_system
from oass_jax.run.workdir import PACKAGES, SHARED, Workdir

HEARTBEAT_S = 10  # a process that is silent for so long is lost, and that ends the others
_JOIN_S = 300  # what a scheduler may take to start all of them
# Fields of the config that may differ; what is read there is compared by its fingerprint.
_MAY_DIFFER = {*OF_HOST, "data.cache", "model.pretrained", "model.label_vectors"}
_LAST_WORDS_S = 1
# What is in the errors of collectives, of the barriers around a checkpoint and of joining.
_LOST = re.compile(
    r"gloo|nccl|coordination|heartbeat|barrier|unavailable|timed out|deadline"
    r"|connection (reset|closed|refused)",
    re.IGNORECASE,
)
_SHARED_S = 10  # what a file system may take to show a host what another one has written


class Place(NamedTuple):
    """Where a process stands among those of its run; None is found out on a pod or under Slurm.

    Attributes:
      coordinator: HOST:PORT of the first process.
      num_processes: of the run.
      process_id: of this one, from 0.
    """

    coordinator: str | None
    num_processes: int | None
    process_id: int | None


def join(place: Place) -> None:
    """Joins the processes of a run; nothing of jax may have been used before.

    Where others do not come within 300 s JAX ends this process by SIGABRT.

    Args:
      place: of this process.

    Raises:
      UserError: there is nothing to join.
      LostProcessError: another one came, but was lost or hung before it had shown its devices.
    """
    try:
        jax.distributed.initialize(
            coordinator_address=place.coordinator,
            num_processes=place.num_processes,
            process_id=place.process_id,
            cluster_detection_method=None if None in place else "deactivate",
            initialization_timeout=_JOIN_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
        jax.devices()  # those of all: here the processes meet
    except ValueError as error:
        raise UserError(
            f"--distributed found no run to join ({error}): a TPU pod, Slurm and Open MPI say "
            "where; elsewhere give --coordinator, --num_processes and --process_id"
        ) from error
    except RuntimeError as error:
        raise LostProcessError(
            f"a process of this run was lost at its start ({first_line(error)}): start all of "
            "them again"
        ) from error


def lost(error: BaseException | None) -> LostProcessError | None:
    """The error of having waited for a process in vain; None where another one was raised.

    Libraries have no class for it, and what they say is the only mark it bears.

    Args:
      error: that was raised, perhaps from another one.
    """
    while error is not None:
        if isinstance(error, RuntimeError | ValueError) and _LOST.search(str(error)):
            return LostProcessError(
                f"another process of this run was lost ({first_line(error)}): start all of them "
                "again; the same command continues from the last checkpoint"
            )
        error = error.__cause__ or error.__context__
    return None


def leave(status: int) -> NoReturn:
    """Ends this process of several at once, without waiting for the others as exiting would."""
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(_LAST_WORDS_S)  # the end of the first one ends the others where they stand
    os._exit(status)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block that all processes leave alike: the error of one is raised in every one.

    What is done inside must not wait for the other processes.

    Raises:
      UserError: that of the first process that had one.
    """
    own: UserError | None = None
    try:
        yield
    except (UserError, OSError) as error:
        own = error if isinstance(error, UserError) else of_the_system(error)
        if own is None or jax.process_count() == 1:
            raise
    if jax.process_count() == 1:
        return
    messages = _gather("" if own is None else str(own))
    for process, message in enumerate(messages):
        if message:
            is_own = process == jax.process_index()
            raise UserError(message if is_own else f"process {process}: {message}") from own


def from_first(text_fn: Callable[[], str]) -> str:
    """What the first process says; the others do not compute it.

    Args:
      text_fn: called in the first process alone.
    """
    text = text_fn() if jax.process_index() == 0 else ""
    return text if jax.process_count() == 1 else _gather(text)[0]


def first_of(text: str) -> str:
    """The first text that is not empty, of those of all processes; empty where there is none.

    Args:
      text: of this process.
    """
    texts = [text] if jax.process_count() == 1 else _gather(text)
    return next(filter(None, texts), "")


def agree(facts: Mapping[str, Any]) -> None:
    """Refuses processes that are about to do different things.

    Args:
      facts: name -> what has to be the same everywhere, as JSON takes it.

    Raises:
      UserError: in every process, with the names and values that differ.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps(dict(facts), sort_keys=True)
    digests = _gather(hashlib.sha256(text.encode()).hexdigest())
    if len(set(digests)) > 1:
        each = [json.loads(one) for one in _gather(text)]
        raise UserError(f"the processes of this run differ: {differences(each)}")


def differences(each: Sequence[Mapping[str, Any]]) -> str:
    """What is not the same everywhere, in words.

    Args:
      each: the facts of every process.
    """
    found = []
    for name in sorted({name for facts in each for name in facts}):
        values: dict[str, list[int]] = {}
        for process, facts in enumerate(each):
            values.setdefault(json.dumps(facts.get(name)), []).append(process)
        if len(values) > 1:
            words = (f"{value} in {_processes(ids)}" for value, ids in values.items())
            found.append(f"{name} is {' and '.join(words)}")
    return "; ".join(found)


def facts_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a process is about to do, for `agree`: config, code and versions.

    Args:
      fields: `a.b` -> value of the config; where a host keeps its data is its own affair.
    """
    config = {f"config.{name}": x for name, x in fields.items() if name not in _MAY_DIFFER}
    checksum = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        checksum.update(str(path.relative_to(package)).encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return (
        config | versions | {"code": checksum.hexdigest()[:12], "python": platform.python_version()}
    )


def require_shared(folder: Workdir) -> None:
    """Refuses a workdir that is not the same folder on every host.

    Args:
      folder: the workdir; the process that writes has made it.

    Raises:
      UserError: in every process, a process does not see what the first one writes.
    """
    if jax.process_count() == 1:
        return
    token = _gather(secrets.token_hex(8))[0]
    path = folder.root / f"{SHARED}{token}"
    try:
        with together():
            folder.write_text(path, token)
            _wait_for(path)
    finally:
        if folder.writes:
            path.unlink(missing_ok=True)


def _wait_for(path: Path) -> None:
    """Waits until this process sees a file that the first one has written."""
    deadline = time.monotonic() + _SHARED_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"the workdir {path.parent} is not shared: process {jax.process_index()} "
                "does not see what process 0 writes there; name a folder that all hosts share"
            )
        time.sleep(0.1)
        with contextlib.suppress(OSError):  # makes a network file system look again
            os.listdir(path.parent)


def _gather(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([data.size]))[:, 0]
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:n]).decode() for row, n in zip(rows, lengths, strict=True)]


def _processes(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:4])) + ", ..." * (len(ids) > 4)
    return f"process {shown}" if len(ids) == 1 else f"processes {shown}"
