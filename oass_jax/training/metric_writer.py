"""Where the numbers of a run go: metrics.jsonl and TensorBoard events."""

import io
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import tensorboardX.summary
from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from oass_jax.run.workdir import Workdir

logger = logging.getLogger(__name__)


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and to the events in `tb/`, from process 0 of a run."""

    def __init__(self, folder: Workdir, *, step: int, evaluation_due: bool = False):
        """Opens the files and cuts what was written after the step that is resumed.

        Args:
          folder: the workdir.
          step: the restored step; 0 for a new run.
          evaluation_due: whether that step is about to be evaluated, perhaps once more.
        """
        self._writes = folder.writes
        if not self._writes:
            return
        folder.write_text(
            folder.metrics, "".join(_lines_until(folder.metrics, step, evaluation_due))
        )
        self._jsonl = folder.metrics.open("a", encoding="utf-8")
        if not folder.events.is_dir() and (folder.events.exists() or folder.events.is_symlink()):
            aside = folder.events.with_name(folder.events.name + ".invalid")
            logger.warning("%s is no folder: it is now %s", folder.events, aside)
            folder.events.rename(aside)
        folder.events.mkdir(exist_ok=True)
        # Not its SummaryWriter: the thread of that dies of an error of the disk, and then its queue
        # fills and stops the training.
        self._events = EventsWriter(str(folder.events / "events"))
        if step:  # later events of an earlier start are hidden
            self._add(step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line; a value that is not finite becomes null, as JSON has no word for it.

        Args:
          step: steps done.
          metrics: names such as `train/loss` or `val/map`.
        """
        if not self._writes:
            return
        finite = {name: x if math.isfinite(x) else None for name, x in metrics.items()}
        self._jsonl.write(json.dumps({"step": step} | finite) + "\n")
        self._jsonl.flush()
        for name, value in metrics.items():
            self._add(step, summary=tensorboardX.summary.scalar(name, value))
        self._events.flush()

    def write_images(self, step: int, images: dict[str, bytes]) -> None:
        """Writes images for TensorBoard as they are; its `add_image` would make PNGs of them.

        Args:
          step: steps done.
          images: names such as `val/01_dog` -> JPEG file.
        """
        if not self._writes:
            return
        for name, data in images.items():
            width, height = Image.open(io.BytesIO(data)).size
            encoded = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=data
            )
            self._add(step, summary=Summary(value=[Summary.Value(tag=name, image=encoded)]))
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files, each whatever the other one raises."""
        if self._writes:
            try:
                self._jsonl.close()
            finally:
                self._events.close()

    def _add(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(step=step, wall_time=time.time(), **content))


def _lines_until(path: Path, step: int, evaluation_due: bool) -> list[str]:
    """The lines of steps up to `step`, without its evaluation if that is due.

    One that a kill cut short, or damaged, is dropped.
    """
    kept = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
            is_again = evaluation_due and row["step"] == step and "val/map" in row
            if row["step"] <= step and not is_again:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            logger.warning("dropped an unreadable line of %s", path)
    return kept
