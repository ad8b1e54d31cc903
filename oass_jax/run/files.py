"""How files are written: whole or not at all, with names and values that every system can read."""

import contextlib
import csv
import io
import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oass_jax.errors import UserError

logger = logging.getLogger(__name__)
_TEMPORARY = re.compile(r".*\.[0-9a-f]{8}\.tmp")  # a file that is being written
_LEFTOVER_S = 3600
# What a file name cannot hold on one system or another; % so that no two names become one.
_UNSAFE = re.compile(r'[\x00-\x1f/\\:*?"<>|%]')


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it, so no reader ever sees half of it.

    Several processes may write the same file, as an evaluation beside a training does: the last one
    wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_temporary(name: str) -> bool:
    """Whether a file is one that `write_bytes` has not finished."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of writers that were killed an hour ago or earlier."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if is_temporary(path.name) and time.time() - path.stat().st_mtime > _LEFTOVER_S:
                path.unlink()


def safe_name(text: str) -> str:
    """A text as part of a file name, on any system; different texts give different names."""
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", text)


def write_files(folder: Path, files: Mapping[str, bytes], *, flag: str) -> None:
    """Writes what a command makes, each file whole or not.

    Args:
      folder: made if it does not exist.
      files: name -> content.
      flag: that names the folder, for the message.

    Raises:
      UserError: the folder cannot be written to.
    """
    try:
        for name, data in files.items():
            write_bytes(folder / name, data)
    except OSError as error:
        raise UserError(f"cannot write to {flag}={folder}: {error.strerror}") from error


def csv_text(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A table as CSV; floats of 64 bits get four decimals, everything else stands as it is."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{x:.4f}" if isinstance(x, float) else x for x in row])
    return text.getvalue()


def none_for_nan(value: float) -> float | None:
    """A number as JSON takes it, None where it is undefined."""
    return float(value) if math.isfinite(value) else None


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; an empty one where there is no such file, or a damaged one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s is ignored: %s", path, error)
        return {}
    return value if isinstance(value, dict) else {}
