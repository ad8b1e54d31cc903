"""The collected runs of the study, and what is computed of their scores."""

import csv
import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oass_jax.errors import UserError
from oass_jax.evaluation import bootstrap
from oass_jax.evaluation.average_precision import mean, mean_average_precision
from oass_jax.figures.statistic import paired_difference

# In the order of the tables.
ROWS = (
    "supervised",
    "max",
    "random",
    "max_csi",
    "puzzlecam",
    "puzzlecam_soft",
    "max_step1",
    "max_step2",
    "max_puzzlecam",
    "ctopk_w_csi",
    "gt_bbox",
    "supervised_long",
    "max_long",
)
BASELINE, PRIMARY = "supervised", "max"
CONTROL = "random"  # of the keypoint
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
        seed. Approximate: to resample a few seeds underestimates their variance, to resample the
        images of each network counts what images and seeds do together twice.
    """

    seeds: tuple[int, ...]
    mean: float
    over_seeds: Interval | None
    over_images: Interval
    over_both: Interval | None


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """Runs by row and seed, and the images they were evaluated on.

    Attributes:
      runs: (row, seed) -> column of `photographs.csv` -> text.
      scores: (row, seed) -> `[N, C]` float32 logits that count, of the student.
      heads: (row, seed) -> head -> the same of each head.
      ema_scores: the same of the EMA encoder, of runs that have one.
      label: `[N, C]` int8.
      class_names: C names.
    """

    runs: dict[tuple[str, int], dict[str, str]]
    scores: dict[tuple[str, int], np.ndarray]
    heads: dict[tuple[str, int], dict[str, np.ndarray]]
    ema_scores: dict[tuple[str, int], np.ndarray]
    label: np.ndarray
    class_names: tuple[str, ...]

    def seeds(self, row: str) -> tuple[int, ...]:
        """Of a row, ascending."""
        return tuple(sorted(seed for name, seed in self.runs if name == row))

    def of_images(self, chosen: np.ndarray) -> "Study":
        """The same of some of the images.

        Args:
          chosen: bool `[N]`.
        """
        return dataclasses.replace(
            self,
            scores={run: x[chosen] for run, x in self.scores.items()},
            heads={},
            ema_scores={run: x[chosen] for run, x in self.ema_scores.items()},
            label=self.label[chosen],
        )

    def of_mean_logits(self, rows: Sequence[str]) -> "Study":
        """One network a row: the mean of its logits over the seeds that all of these rows have."""
        seeds = sorted(set.intersection(*(set(self.seeds(row)) for row in rows)))
        means = {(row, 0): np.mean([self.scores[row, s] for s in seeds], axis=0) for row in rows}
        runs = {run: self.runs[run[0], seeds[0]] for run in means}
        return dataclasses.replace(self, runs=runs, scores=means, heads={}, ema_scores={})

    def of_heads(self, row: str, heads: Sequence[str], *, name: str) -> "Study":
        """With a further row: the scores of a head of a row, or the mean of several."""
        found = {
            (name, s): np.mean([self.heads[row, s][head] for head in heads], axis=0)
            for s in self.seeds(row)
        }
        runs = {run: self.runs[row, run[1]] for run in found}
        return dataclasses.replace(self, runs=self.runs | runs, scores=self.scores | found)

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
    def drawn_ap(self, row: str, seed: int) -> np.ndarray:
        """Average precision `[R, C]` of a run in every draw of the images."""
        return bootstrap.average_precision(self.scores[row, seed], self.label, self._weights)

    def difference(
        self,
        row: str,
        other: str,
        *,
        seeds: Collection[int] | None = None,
        classes: Collection[str] | None = None,
    ) -> Difference | None:
        """Compares the mAP of two rows.

        Args:
          row: that is compared.
          other: with which.
          seeds: of both; None for all.
          classes: the mean is over; None for all.

        Returns:
          None where they have no seed in common.
        """
        names = self.class_names if classes is None else classes
        columns = [self.class_names.index(name) for name in names]
        seeds = [
            seed
            for seed in self.seeds(row)
            if (seeds is None or seed in seeds)
            and all((name, seed) in self.scores for name in (row, other))
        ]
        if not seeds:
            return None
        maps = [{seed: self._map(name, seed, columns) for seed in seeds} for name in (row, other)]
        # [S, R], of the same draws.
        one, two = (
            np.stack([mean(self.drawn_ap(name, seed)[:, columns]) for seed in seeds])
            for name in (row, other)
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

    def _map(self, row: str, seed: int, columns: list[int]) -> float:
        return float(mean(mean_average_precision(self.scores[row, seed], self.label).ap[columns]))


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
    scores, heads, ema_scores = {}, {}, {}
    for (row, seed), columns in found.items():
        with np.load(folder / f"{row}_seed{seed}.npz") as arrays:
            heads[row, seed] = _heads(arrays, "student")
            scores[row, seed] = heads[row, seed][columns["logits"]]
            if of_ema := _heads(arrays, "ema"):
                ema_scores[row, seed] = of_ema[columns["logits"]]
    with np.load(folder / "labels.npz") as arrays:
        names = tuple(arrays["class_name"].tolist())
        return Study(found, scores, heads, ema_scores, arrays["label"], names)


def probes(folder: Path) -> dict[tuple[str, int], list[dict[str, float]]]:
    """Reads what `probe` has written.

    Args:
      folder: of `probe_ROW_seedN.csv`.

    Returns:
      (row, seed), in the order of `ROWS` -> column -> value, for each moment of the run.
    """
    found = {}
    for path in folder.glob("probe_*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            moments = [
                {name: float(x) for name, x in line.items()} for line in csv.DictReader(file)
            ]
        row = path.stem.removeprefix("probe_").rpartition("_seed")[0]
        found[row, int(moments[0]["seed"])] = moments
    return {run: found[run] for run in sorted(found, key=lambda run: (ROWS.index(run[0]), run[1]))}


def _resample_seeds(gain: np.ndarray) -> np.ndarray:
    """Differences `[S, R]` in each draw of the images -> means `[R]` over S seeds drawn of S."""
    drawn = np.random.default_rng(1).integers(len(gain), size=gain.shape)
    return np.take_along_axis(gain, drawn, axis=0).mean(axis=0)


def _heads(arrays: Mapping[str, np.ndarray], weights: str) -> dict[str, np.ndarray]:
    """Head -> its logits by the weights of the student or of the EMA encoder."""
    return {
        name.removeprefix(f"{weights}/"): array.astype(np.float32)
        for name, array in arrays.items()
        if name.startswith(f"{weights}/")
    }
