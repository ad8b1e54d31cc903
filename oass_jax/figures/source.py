"""An evaluation as its files hold it: what a report and Fig. 6 are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from oass_jax.errors import UserError, nearest, nearest_path
from oass_jax.evaluation import scores
from oass_jax.run import workdir
from oass_jax.run.workdir import Workdir, evaluation_name

_EVALUATE = "evaluate with --mode=eval"


@dataclass(frozen=True)
class Source:
    """An evaluation of a run.

    Attributes:
      folder: the workdir.
      name: of the run, for people.
      evaluation: `DATASET_SPLIT`.
      summary: what `summary.json` holds.
      images: N file names, in the order of the split.
      class_names: C names.
      label: int8 `[N, C]`, 1, 0 or -1.
      logits: float32 `[N, C]`, those that are scored.
      threshold: float64 `[C]`, the probability each class is predicted from; 0.5 if none is chosen.
      has_thresholds: whether they were chosen for the classes.
      thresholds_of: the split they were chosen on; None where it is this one.
    """

    folder: Workdir
    name: str
    evaluation: str
    summary: dict[str, Any]
    images: tuple[str, ...]
    class_names: tuple[str, ...]
    label: np.ndarray
    logits: np.ndarray
    threshold: np.ndarray
    has_thresholds: bool
    thresholds_of: str | None

    @property
    def files(self) -> Path:
        """The folder of the evaluation."""
        return self.folder.evaluation_named(self.evaluation)


def choose_evaluation(folders: Sequence[Workdir], wanted: str | None) -> str:
    """The evaluation of several runs to look at or compare.

    Args:
      folders: workdirs; all must have it.
      wanted: `DATASET_SPLIT`; None for the first run's validation split, or else the only one.

    Raises:
      UserError: there is no such run or evaluation.
    """
    for folder in folders:
        if not folder.root.is_dir():
            raise UserError(f"{folder.root} is no folder: {nearest_path(folder.root)}")
        if not folder.config.is_file() and not folder.summaries():
            raise UserError(f"{folder.root} holds no run: there is no {folder.config.name} in it")
    first = list(folders[0].summaries())
    dataset, split = folders[0].validation()
    chosen = wanted or (evaluation_name(dataset, split) if dataset and split else "")
    if wanted is None and chosen not in first:
        if len(first) > 1:
            raise UserError(
                f"{folders[0].root} is not evaluated on its validation split: choose one as "
                f"--eval, there are {', '.join(first)}"
            )
        chosen = first[0] if first else chosen
    for folder in folders:
        if chosen not in (there := folder.summaries()):
            hint = nearest(chosen, there) if there else "there are none"
            raise UserError(
                f"{folder.root} has no evaluation {chosen or 'yet'}: {hint}; to make one, "
                f"{_EVALUATE}"
            )
    return chosen


def read(folder: Workdir, evaluation: str, *, name: str) -> Source:
    """Reads an evaluation.

    Args:
      folder: the workdir.
      evaluation: `DATASET_SPLIT` that is there.
      name: of the run, for people.

    Raises:
      UserError: a file of it is missing or damaged, or its split has no labels.
    """
    target = folder.evaluation_named(evaluation)
    summary = workdir.read_summary(target / workdir.SUMMARY)
    if not isinstance(summary.get("step"), int):
        raise UserError(f"{target / workdir.SUMMARY} is damaged: {_EVALUATE} once more")
    found = scores.read(target / workdir.SCORES)
    if not (found.label == 1).any():
        raise UserError(f"{target} has no labels to compare the predictions with: choose another")
    has_thresholds = found.threshold is not None
    return Source(
        folder=folder,
        name=name,
        evaluation=evaluation,
        summary=summary,
        images=found.image,
        class_names=found.class_name,
        label=found.label,
        logits=found.prediction,
        threshold=found.threshold if has_thresholds else np.full(len(found.class_name), 0.5),
        has_thresholds=has_thresholds,
        thresholds_of=found.thresholds_of,
    )


def aligned(first: Source, other: Source) -> Source:
    """Brings the images of an evaluation into the order of another.

    Raises:
      UserError: they are of other images, classes or labels.
    """
    both = f"{first.folder.root} and {other.folder.root}"
    if first.class_names != other.class_names:
        raise UserError(f"{both} have other classes: only runs of the same classes are compared")
    position = {name: n for n, name in enumerate(other.images)}
    if of_one := sorted(set(first.images) ^ set(position)):
        raise UserError(
            f"{both} were evaluated on other images: {len(of_one)} are in one of them only, "
            f"such as {of_one[0]}; evaluate both on the same split with --mode=eval"
        )
    order = [position[name] for name in first.images]
    label = other.label[order]
    if (label != first.label).any():
        raise UserError(
            f"{both} were evaluated with other labels: evaluate both with the same data and "
            "--config.eval.difficult"
        )
    return replace(other, images=first.images, label=label, logits=other.logits[order])


def short_names(folders: Sequence[Workdir]) -> list[str]:
    """A name for each run: the last part of its path, or as many as tell them apart."""
    parts = [folder.root.absolute().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names
