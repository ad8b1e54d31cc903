"""Workdirs -> runs: where they are, their config, and the results of their evaluations."""

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from oass_jax.config_file import flatten
from oass_jax.default_config import OF_PLACES, WITHOUT_EFFECT
from oass_jax.errors import UserError, nearest_path
from oass_jax.run.workdir import Workdir

# What changes no result where there are no patches: fields that begin so.
OF_PATCHES = (
    "keypoint.",
    "teacher.resize_",
    "loss.alpha_p",
    "loss.alpha_re",
    "loss.re_",
    "loss.pcl_",
    "loss.start_",
)
# What makes another method: words have to be equal, numbers both on or both off.
OF_METHOD = ("teacher.mode", "keypoint.strategy", "model.csi", "model.graph", "regions.count")
RECORDED_BY_EVALUATION = ("weights", "logits", "difficult", "num_images")


@dataclass(frozen=True)
class Run:
    """A run, read from its workdir.

    Attributes:
      folder: the workdir.
      fields: `a.b` -> value of its config.
      ended: when its last start ended by itself; None where it has not.
      command: of its last start.
      evaluations: `DATASET_SPLIT` -> its `summary.json`.
    """

    folder: Path
    fields: dict[str, Any]
    ended: datetime.datetime | None
    command: str
    evaluations: dict[str, dict[str, Any]]

    @property
    def seed(self) -> int:
        """Of weights, order and augmentation."""
        return self.fields["seed"]


def find(places: Iterable[Path]) -> list[Path]:
    """The workdirs among folders, and one or two levels below those that are none themselves.

    Args:
      places: workdirs, or folders of them.

    Returns:
      Each workdir once, in the order of the places.

    Raises:
      UserError: a place is no folder, cannot be read, or holds no run.
    """
    found = {}
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place} is no folder: {nearest_path(place)}")
        try:
            workdirs = list(_search(place, levels=2))
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
        if not workdirs:
            raise UserError(
                f"{place} holds no run: there is no config.json in it or up to two levels below"
            )
        for workdir in workdirs:
            found.setdefault(workdir.resolve(), workdir)
    return list(found.values())


def _search(folder: Path, levels: int) -> Iterator[Path]:
    if Workdir(folder).config.is_file():
        yield folder
    elif levels:
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield from _search(path, levels - 1)


def read_all(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Reads the finished runs.

    Args:
      folders: workdirs.

    Returns:
      The finished runs, and a sentence for each folder that was omitted.
    """
    runs, notes = [], []
    for folder in folders:
        try:
            run = _read(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            notes.append(f"{folder} is omitted: its files are not those of a run ({what})")
            continue
        if run.ended:
            runs.append(run)
        else:
            notes.append(f"{folder} is omitted: the run is not finished")
    return runs, notes


def _read(folder: Path) -> Run:
    files = Workdir(folder)
    fields = flatten(_load(files.config))
    starts = _load(files.env)["starts"][-1:] if files.env.exists() else []
    last = starts[0] if starts else {}
    ended = last.get("end")
    return Run(
        folder=folder,
        fields=fields | {"seed": int(fields["seed"])},
        ended=datetime.datetime.fromisoformat(ended).astimezone() if ended else None,
        command=last.get("command", ""),
        evaluations={name: _summary(path) for name, path in files.summaries().items()},
    )


def _load(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return value


def _summary(path: Path) -> dict[str, Any]:
    value = _load(path)
    # A metric is null where no class has positives.
    numbers = [value["num_images"], value["step"], value["map"] or 0, value["map_voc"] or 0]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"{path.name} has something else where a number belongs")
    return value


def settings(fields: Mapping[str, Any], summary: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What makes two runs the same experiment: all that can change the result, but the seed.

    Args:
      fields: `a.b` -> value of a config.
      summary: of an evaluation, which knows better than the config how it was made.

    Returns:
      Name -> value. A field that is off is omitted, as it is in runs older than the field.
    """
    known = dict(fields)
    for name in OF_PLACES:
        known[name] = PurePath(known.get(name) or "").name
    for name, value in (summary or {}).items():
        if name in RECORDED_BY_EVALUATION or f"eval.{name}" in fields:
            known[f"eval.{name}"] = value
    # The class maps are measured by themselves, whatever was trained.
    ignored: tuple[str, ...] = ("cam.",)
    if not any(fields.get(name, True) for name in ("loss.alpha_p", "loss.alpha_re")):
        known["teacher.mode"] = "none"  # without patches the student is supervised
    if known.get("teacher.mode") == "none":
        ignored += OF_PATCHES
        if known.get("eval.weights") != "ema":
            ignored += ("teacher.ema_",)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in known.items()
        if value and name not in WITHOUT_EFFECT and not name.startswith(ignored)
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What one experiment has otherwise than another, such as `batch_size=16 instead of 32`.

    Args:
      one: `settings` of it.
      other: `settings` of what it is compared with.

    Returns:
      A sentence for each field that differs.
    """
    return [
        f"{name}={one.get(name, 'off')} instead of {other.get(name, 'off')}"
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]


def nearest_config(own: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The config that an experiment is of: of those with its method, the least different.

    A data set or encoder that some config has must be that of the config; any other, such as a
    user's own, may stand in.

    Args:
      own: `settings` of the experiment.
      configs: name -> `settings` of a config.

    Returns:
      A name, the first by alphabet among equals; None where no config has this method.
    """
    candidates = list(configs)
    for field in ("data.dataset", "model.encoder"):
        equal = [name for name in candidates if configs[name].get(field) == own.get(field)]
        candidates = equal or candidates
    return min(
        (name for name in candidates if _method(configs[name]) == _method(own)),
        key=lambda name: (len(differences(own, configs[name])), name),
        default=None,
    )


def _method(own: Mapping[str, Any]) -> list[Any]:
    values = (own.get(name) for name in OF_METHOD)
    return [value if isinstance(value, str) else bool(value) for value in values]
