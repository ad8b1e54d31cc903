"""Finished runs -> the paper's tables beside the paper's figures, as Markdown and CSV."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from oass_jax.errors import UserError, nearest
from oass_jax.figures import paper
from oass_jax.figures.runs import Run, differences, settings
from oass_jax.figures.statistic import Paired, paired_difference

HEADINGS = {
    "puzzlecam": "vs PuzzleCAM",
    "supervised": "vs Supervised",
    "max": "vs Max",
    "without_csi": "w/ vs w/o CSI",
}
# What runs have in common, and the runs by seed.
Gathered = tuple[dict[str, Any], dict[int, Run]]


@dataclass(frozen=True)
class Group:
    """Runs of one row that differ in the seed alone.

    Attributes:
      row: one of `paper.ROWS`, or a method in words.
      settings: what they have in common.
      runs: seed -> run, in the order of the seeds.
      maps: seed -> mAP in percent.
      differs: what is otherwise than in the row's config, or where there is none than in the
        row's first group, and on how many images if not as many as that; empty where nothing is.
    """

    row: str
    settings: dict[str, Any]
    runs: dict[int, Run]
    maps: dict[int, float]
    differs: str = ""

    @property
    def num_images(self) -> int:
        """Of the split that was evaluated."""
        return self.settings.get("eval.num_images", 0)


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
      row: of the paper.
      group: what was run; None without a run.
      compared: baseline -> difference to it, None where fewer than two seeds are common.
      comparable: whether the group was evaluated on what the paper's figure is of.
    """

    row: paper.Row
    group: Group | None
    compared: dict[str, Paired | None]
    comparable: bool


@dataclass(frozen=True)
class Table:
    """A table of the paper and what was run of it, on one evaluation (`DATASET_SPLIT`)."""

    paper: paper.PaperTable
    evaluation: str
    lines: list[Line]


def choose_evaluation(
    runs: Iterable[Run], *, flag: str, wanted: str | None, default: str, is_test: bool
) -> str:
    """The evaluation a table is made of.

    Args:
      runs: finished runs.
      flag: of the command, for messages.
      wanted: what the user asked for; None for the default, or else the only one there is.
      default: `DATASET_SPLIT`.
      is_test: whether to look among test splits or among the others.

    Returns:
      `DATASET_SPLIT`; the default where the runs hold none.

    Raises:
      UserError: the runs do not hold what was asked for, or several that it could be.
    """
    there = sorted({name for run in runs for name in run.evaluations})
    if wanted is not None:
        if wanted not in there:
            raise UserError(
                f"{flag}={wanted}: no finished run was evaluated on it: {nearest(wanted, there)}"
            )
        return wanted
    candidates = [name for name in there if name.endswith("_test") == is_test]
    if default in candidates or not candidates:
        return default
    if len(candidates) > 1:
        raise UserError(
            f"no run was evaluated on {default}: choose with {flag}, there are "
            f"{', '.join(candidates)}"
        )
    return candidates[0]


def group_runs(runs: Iterable[Run], evaluation: str) -> tuple[dict[str, list[Group]], list[str]]:
    """Gathers the runs of each row that differ in the seed alone.

    Args:
      runs: finished runs.
      evaluation: `DATASET_SPLIT`; runs without it are passed over.

    Returns:
      Row -> its groups, the one with the most seeds first; and a sentence for each run that is
      passed over though it has this evaluation.
    """
    gathered: dict[str, list[Gathered]] = {}
    notes = []
    for run in sorted(runs, key=lambda run: run.ended):
        row, summary = paper.method_of(run.fields), run.evaluations.get(evaluation)
        if summary is None:
            continue
        if summary["map"] is None:
            notes.append(f"{run.folder} is omitted from {evaluation}: no class has positives")
            continue
        own = settings(run.fields, summary)
        same = next((runs for other, runs in gathered.get(row, ()) if other == own), None)
        if same is None:
            same = {}
            gathered.setdefault(row, []).append((own, same))
        if run.seed in same:
            notes.append(
                f"{row}, seed {run.seed} was run twice: {run.folder} counts, it is newer than "
                f"{same[run.seed].folder}"
            )
        same[run.seed] = run
    groups = {row: _create_groups(row, evaluation, gathered[row]) for row in gathered}
    return groups, notes + _notes_on_steps(groups, evaluation)


def _create_groups(row: str, evaluation: str, gathered: list[Gathered]) -> list[Group]:
    def order(item: Gathered) -> tuple:
        runs = item[1].values()
        return -len(runs), min(run.folder for run in runs)

    groups = []
    for own, by_seed in sorted(gathered, key=order):
        runs = dict(sorted(by_seed.items()))
        maps = {seed: run.evaluations[evaluation]["map"] for seed, run in runs.items()}
        first = groups[0].settings if groups else own
        config = paper.configs().get(paper.config_of(next(iter(runs.values())).fields), first)
        # No config has the number of images of a split.
        num_images = first.get("eval.num_images")
        differs = ", ".join(differences(own, config | {"eval.num_images": num_images}))
        groups.append(Group(row, own, runs, maps, differs))
    return groups


def _notes_on_steps(groups: Mapping[str, list[Group]], evaluation: str) -> list[str]:
    """Reports where the seeds of a group were not evaluated after the same number of steps."""
    notes = []
    for group in (group for of_row in groups.values() for group in of_row):
        steps = [run.evaluations[evaluation]["step"] for run in group.runs.values()]
        if len(set(steps)) > 1:
            words = ", ".join(f"{x:,} (seed {y})" for x, y in zip(steps, group.runs, strict=True))
            notes.append(f"{group.row} was evaluated on {evaluation} at different steps: {words}")
    return notes


def create_table(
    of_paper: paper.PaperTable, evaluation: str, groups: Mapping[str, list[Group]]
) -> Table:
    """Puts the groups into the rows of a table of the paper.

    Args:
      of_paper: the table.
      evaluation: `DATASET_SPLIT` the groups are of.
      groups: row -> its groups.

    Returns:
      A line for each group, and one for each row without any.
    """
    lines = []
    for row in of_paper.rows:
        for group in groups.get(row.name) or [None]:
            compared = {
                baseline: group and _compare(group, paper.baseline_row(row.name, baseline), groups)
                for baseline in of_paper.baselines
            }
            comparable = group is not None and (evaluation, group.num_images) == (
                of_paper.evaluation,
                of_paper.num_images,
            )
            lines.append(Line(row, group, compared, comparable))
    return Table(of_paper, evaluation, lines)


def create_others(evaluation: str, groups: Mapping[str, list[Group]]) -> list[Table]:
    """A table of the methods that the paper has no row for; none where none was run.

    Args:
      evaluation: `DATASET_SPLIT` the groups are of.
      groups: row -> its groups.
    """
    names = sorted(groups.keys() - set(paper.ROWS))
    rows = tuple(paper.Row(name, name, None) for name in names)
    if not rows:
        return []
    return [create_table(replace(paper.OTHERS, rows=rows), evaluation, groups)]


def _compare(
    group: Group, baseline: str | None, groups: Mapping[str, list[Group]]
) -> Paired | None:
    """Compares with the group of the baseline that is most like this one, on the same images."""
    others = [other for other in groups.get(baseline, []) if other.num_images == group.num_images]
    if not others:
        return None
    most_alike = min(others, key=lambda other: len(differences(group.settings, other.settings)))
    return paired_difference(group.maps, most_alike.maps)


def in_no_table(runs: Iterable[Run], evaluations: Collection[str]) -> list[str]:
    """Reports which finished runs the tables have no place for.

    Args:
      runs: finished runs.
      evaluations: `DATASET_SPLIT` of every table.

    Returns:
      A sentence for each.
    """
    words = " or ".join(evaluations)
    return [
        f"{run.folder} is in no table: it was not evaluated on {words}"
        for run in runs
        if not run.evaluations.keys() & set(evaluations)
    ]
