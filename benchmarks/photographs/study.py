"""The collected runs of the study, and what is computed of their scores."""

import csv
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oass_jax.errors import UserError
from oass_jax.evaluation import bootstrap
from oass_jax.evaluation.average_precision import mean, mean_average_precision
from oass_jax.figures.statistic import paired_difference

# Two thirds of the images show one: many are from one set of photographs of animals.
ANIMALS = ("bird", "cat", "cow", "dog", "horse", "sheep")
NUM_DRAWS = 2_000

Interval = tuple[float, float]


class Difference(NamedTuple):
    """How much more one row has than another, over the seeds they have in common.

    Attributes:
      seeds: in common.
      mean: of the difference, in points of mAP.
      over_seeds: 95 % interval of Student's t, the images being these; None for one seed.
      over_images: 95 % interval of resampled images, the networks being these.
      over_both: 95 % interval where both are resampled (hierarchical bootstrap); None for one
        seed. Approximate: resampling a few seeds underestimates their variance.
    """

    seeds: tuple[int, ...]
    mean: float
    over_seeds: Interval | None
    over_images: Interval
    over_both: Interval | None


@dataclass(frozen=True, eq=False)
class Study:
    """Runs by row and seed, and the images they were evaluated on.

    Attributes:
      runs: (row, seed) -> column of `photographs.csv` -> text.
      scores: (row, seed) -> `[N, C]` float32 logits that count, of the student.
      ema_scores: the same of the EMA encoder, of runs that have one.
      label: `[N, C]` int8.
      class_names: C names.
    """

    runs: dict[tuple[str, int], dict[str, str]]
    scores: dict[tuple[str, int], np.ndarray]
    ema_scores: dict[tuple[str, int], np.ndarray]
    label: np.ndarray
    class_names: tuple[str, ...]

    def seeds(self, row: str) -> tuple[int, ...]:
        """Of a row, ascending."""
        return tuple(sorted(seed for name, seed in self.runs if name == row))

    def ap(self, row: str, *, ema: bool = False) -> np.ndarray:
        """Average precision `[S, C]` of every seed of a row, percent, NaN without positives."""
        scores = self.ema_scores if ema else self.scores
        return np.stack(
            [
                mean_average_precision(scores[row, seed], self.label).ap
                for seed in self.seeds(row)
                if (row, seed) in scores
            ]
        )

    @functools.cached_property
    def _weights(self) -> np.ndarray:
        return bootstrap.draw_weights(len(self.label), NUM_DRAWS)

    @functools.cache  # noqa: B019, a study lives as long as the program
    def drawn_ap(self, row: str, seed: int, *, ema: bool = False) -> np.ndarray:
        """Average precision `[R, C]` of a run in every draw of the images."""
        scores = (self.ema_scores if ema else self.scores)[row, seed]
        return bootstrap.average_precision(scores, self.label, self._weights)

    def difference(
        self,
        row: str,
        other: str,
        *,
        classes: Collection[str] | None = None,
        ema: tuple[bool, bool] = (False, False),
    ) -> Difference | None:
        """Compares the mAP of two rows.

        Args:
          row: that is compared.
          other: with which.
          classes: the mean is over; None for all.
          ema: whether each is that of the EMA encoder.

        Returns:
          None where they have no seed in common.
        """
        names = self.class_names if classes is None else classes
        columns = [self.class_names.index(name) for name in names]
        both = tuple(zip((row, other), ema, strict=True))
        seeds = [
            seed
            for seed in self.seeds(row)
            if all((name, seed) in (self.ema_scores if e else self.scores) for name, e in both)
        ]
        if not seeds:
            return None
        maps = [{seed: self._map(name, seed, columns, ema=e) for seed in seeds} for name, e in both]
        # [S, R], of the same draws.
        one, two = (
            np.stack(
                [
                    bootstrap.mean_over_classes(self.drawn_ap(name, seed, ema=e)[:, columns])
                    for seed in seeds
                ]
            )
            for name, e in both
        )
        gain = one - two
        paired = paired_difference(*maps)
        return Difference(
            seeds=tuple(seeds),
            mean=float(np.mean([maps[0][seed] - maps[1][seed] for seed in seeds])),
            over_seeds=None if paired is None else (paired.low, paired.high),
            over_images=bootstrap.interval(gain.mean(axis=0)),
            over_both=None if len(seeds) == 1 else bootstrap.interval(_resample_seeds(gain)),
        )

    def _map(self, row: str, seed: int, columns: list[int], *, ema: bool) -> float:
        scores = (self.ema_scores if ema else self.scores)[row, seed]
        return mean(mean_average_precision(scores, self.label).ap[columns])


def read(results: Path) -> Study:
    """Reads what `collect` has written.

    Args:
      results: the folder of `photographs.csv`.

    Raises:
      UserError: there is no such file.
    """
    table, folder = results / "photographs.csv", results / "photographs"
    if not table.is_file():
        raise UserError(f"there is no {table}: run benchmarks.photographs.collect first")
    with table.open(newline="", encoding="utf-8") as file:
        found = {(row["row"], int(row["seed"])): row for row in csv.DictReader(file)}
    scores, ema_scores = {}, {}
    for (row, seed), columns in found.items():
        with np.load(folder / f"{row}_seed{seed}.npz") as arrays:
            scores[row, seed] = _chosen(arrays, "student", columns["logits"])
            if any(name.startswith("ema/") for name in arrays):
                ema_scores[row, seed] = _chosen(arrays, "ema", columns["logits"])
    with np.load(folder / "labels.npz") as arrays:
        names = tuple(arrays["class_name"].tolist())
        return Study(found, scores, ema_scores, arrays["label"], names)


def _resample_seeds(gain: np.ndarray) -> np.ndarray:
    """Differences `[S, R]` in each draw of the images -> means `[R]` over S seeds drawn of S."""
    drawn = np.random.default_rng(1).integers(len(gain), size=gain.shape)
    return np.take_along_axis(gain, drawn, axis=0).mean(axis=0)


def _chosen(arrays: Mapping[str, np.ndarray], weights: str, head: str) -> np.ndarray:
    return arrays[f"{weights}/{head}"].astype(np.float32)
