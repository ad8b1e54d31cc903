"""The collected runs of the study -> the tables and sentences of `docs/results.md`.

    python -m benchmarks.photographs.tables results --docs=docs/results.md

Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->`, so that no number is typed by
hand; the rest of the text is left alone.
"""

import csv
import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.photographs.study import ANIMALS, Difference, Interval, Study, read
from oass_jax import command_line
from oass_jax.errors import UserError
from oass_jax.figures.markdown import NONE
from oass_jax.figures.statistic import mean_and_std, paired_difference
from oass_jax.run.files import write_bytes

BASELINE, PRIMARY = "supervised", "max"
CONTROL = "random"  # of the keypoint
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
# Row -> the one it is compared with, where that is not `BASELINE`.
COMPARED_WITH = {"max_long": "supervised_long"}
# Rows that differ in the weights of L_p-cl and L_re alone.
OF_WEIGHTS = ("supervised", "max", "max_step1", "max_step2", "max_puzzlecam")

MEASURES_OF_MAPS = ("miou", "pointing_game")


@command_line.command
def main(argv: Sequence[str]) -> None:
    """The command."""
    args = _parse(argv)
    blocks = create_blocks(args.results)
    if args.docs is None:
        print("\n\n".join(blocks.values()))
        return
    text = replace(args.docs.read_text(encoding="utf-8"), blocks, name=str(args.docs))
    write_bytes(args.docs, text.encode())


def _parse(argv: Sequence[str]) -> Namespace:
    parser = command_line.Parser(
        prog="python -m benchmarks.photographs.tables", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "results", type=command_line.path, metavar="RESULTS", help="folder of photographs.csv"
    )
    parser.add_argument(
        "--docs", type=command_line.path, metavar="FILE", help="to change; prints without it"
    )
    return parser.parse_args(argv)


def create_blocks(results: Path) -> dict[str, str]:
    """Every table and sentence.

    Args:
      results: the folder of `photographs.csv`.

    Returns:
      Name of a block -> Markdown.
    """
    study = read(results)
    return {
        "tuning": tuning_table(results / "photographs_tuning.csv"),
        "primary": comparison(study, PRIMARY, BASELINE),
        "control": comparison(study, PRIMARY, CONTROL),
        "rows": rows_table(study),
        "maps": maps_table(study),
        "weights": weights_table(study),
        "classes": classes_table(study),
        "probes": probes_table(sorted((results / "photographs").glob("probe_*.csv"))),
    }


def replace(text: str, blocks: dict[str, str], *, name: str) -> str:
    """Puts each block between its marks.

    Args:
      text: of the document.
      blocks: name -> Markdown.
      name: of the document, for messages.

    Raises:
      UserError: a block has no marks in the text.
    """
    for block, markdown in blocks.items():
        pattern = re.compile(rf"(<!-- {block} -->\n).*?(<!-- /{block} -->)", re.DOTALL)
        if not pattern.search(text):
            raise UserError(
                f"{name} has no place for the block {block}: <!-- {block} --> is missing"
            )
        text = pattern.sub(
            lambda found, markdown=markdown: f"{found[1]}{markdown}\n{found[2]}", text
        )
    return text


def comparison(study: Study, row: str, other: str) -> str:
    """A comparison of two rows in words."""
    difference = study.difference(row, other)
    if difference is None:
        return f"`{row}` and `{other}` have not been run with the same seed yet."
    if difference.over_both is None:
        return f"One seed of `{row}` against `{other}`: {_signed(difference.mean)} points of mAP."
    low, high = difference.over_both
    verdict = (
        "no difference was seen"
        if low <= 0 <= high
        else f"`{row}` is {'better' if low > 0 else 'worse'}"
    )
    return (
        f"`{row}` against `{other}`, {len(difference.seeds)} seeds: "
        f"{_signed(difference.mean)} points of mAP, 95 % interval over seeds and images "
        f"{_interval(difference.over_both)}: {verdict}."
    )


def rows_table(study: Study) -> str:
    """Every row: its numbers, and its difference to the row it is compared with."""
    others = [name for name in study.class_names if name not in ANIMALS]
    lines = []
    for row in _there(study, ROWS):
        runs = [study.runs[row, seed] for seed in study.seeds(row)]
        other = _compared_with(row)
        difference = None if other is None else study.difference(row, other)
        without = None if other is None else study.difference(row, other, classes=others)
        has_ema = any(name == row for name, _ in study.ema_scores)
        hours = list(_of_seeds(study, row, "hours").values())
        lines.append(
            [
                f"`{row}`",
                len(runs),
                _mean(float(run["map"]) for run in runs),
                _mean(float(run["map_voc"]) for run in runs),
                _mean(np.nanmean(study.ap(row, ema=True), axis=1)) if has_ema else NONE,
                NONE if difference is None else f"`{other}`",
                *_differences(difference),
                NONE if without is None else _signed(without.mean),
                f"{np.median(hours):.2f}" if hours else NONE,
            ]
        )
    header = ["row", "seeds", "mAP", "VOC's formula", "EMA weights", "against", "difference"]
    header += ["over seeds", "over images", "over both", "without animals", "hours"]
    return _markdown(header, lines)


def maps_table(study: Study) -> str:
    """The class maps of every row, and the difference to those of the row it is compared with."""
    lines = []
    for row in _there(study, ROWS):
        other = _compared_with(row)
        cells = [f"`{row}`", NONE if other is None else f"`{other}`"]
        for measure in MEASURES_OF_MAPS:
            values = _of_seeds(study, row, measure)
            paired = other and paired_difference(values, _of_seeds(study, other, measure))
            cells.append(_mean(values.values()))
            cells.append(_signed(paired.mean) if paired else NONE)
            cells.append(_interval((paired.low, paired.high)) if paired else NONE)
        lines.append(cells)
    difference = ["difference", "over seeds"]
    header = ["row", "against", "mIoU", *difference, "pointing game", *difference]
    return _markdown(header, lines)


def weights_table(study: Study) -> str:
    """Rows between the paper's weights and PuzzleCAM's."""
    lines = []
    for row in _there(study, OF_WEIGHTS):
        run = study.runs[row, study.seeds(row)[0]]
        difference = None if row == BASELINE else study.difference(row, BASELINE)
        lines.append(
            [
                f"`{row}`",
                f"{float(run['alpha_p']):.3f}",
                f"{float(run['alpha_re']):.3f}",
                *_differences(difference)[:1],
                NONE if difference is None else _interval(difference.over_images),
                NONE if row == BASELINE else f"{_correlation(study, row):.4f}",
            ]
        )
    if len(study.seeds(BASELINE)) > 1:
        lines.append([f"`{BASELINE}`, another seed", *[NONE] * 4, f"{_between_seeds(study):.4f}"])
    header = ["row", "L_p-cl", "L_re", "against `supervised`", "over images"]
    return _markdown([*header, "correlation of the logits"], lines)


def classes_table(study: Study) -> str:
    """Average precision of every class, `supervised` and `max`."""
    if study.difference(PRIMARY, BASELINE) is None:
        return "Not run yet."
    means = {row: study.ap(row).mean(axis=0) for row in (BASELINE, PRIMARY)}
    lines = []
    for index, name in enumerate(study.class_names):
        difference = study.difference(PRIMARY, BASELINE, classes=[name])
        positives = int((study.label[:, index] == 1).sum())
        aps = [f"{means[row][index]:.1f}" for row in (BASELINE, PRIMARY)]
        lines.append(
            [name, positives, *aps, _signed(difference.mean), _interval(difference.over_both)]
        )
    header = ["class", "images", f"`{BASELINE}`", f"`{PRIMARY}`", "difference", "over both"]
    return _markdown(header, lines)


def tuning_table(path: Path) -> str:
    """mAP of every tuning run on the training images that were held out for it."""
    if not path.is_file():
        return "Not run yet."
    with path.open(newline="", encoding="utf-8") as file:
        lines = [
            [
                f"`{row['row']}`",
                row["encoder_learning_rate"],
                row["epochs"],
                f"{float(row['map']):.1f}",
            ]
            for row in csv.DictReader(file)
        ]
    return _markdown(["row", "encoder's learning rate", "epochs", "mAP"], lines)


def probes_table(paths: Sequence[Path]) -> str:
    """Gradients, maps and cuts at each moment of the runs that were probed."""
    lines = []
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                x = {name: float(value) for name, value in row.items()}
                lines.append(
                    [
                        f"`{path.stem.removeprefix('probe_photographs-')}`",
                        row["seed"],
                        f"{x['epoch']:.1f}",
                        *(f"{x[f'encoder_{name}']:.2f}" for name in ("cls", "pcl", "re")),
                        f"{x['encoder_cos_re']:.2f}",
                        *(f"{x[f'head_{name}']:.2f}" for name in ("cls", "pcl", "re")),
                        f"{x['loss_re'] / x['map_size']:.2f}",
                        *(
                            f"{100 * x[f'inside_{name}']:.0f} %"
                            for name in ("max", "random", "center")
                        ),
                    ]
                )
    if not lines:
        return "Not run yet."
    header = ["row", "seed", "epoch", "encoder: L_cls", "L_p-cl", "L_re", "cos(L_re, L_cls)"]
    header += ["head: L_cls", "L_p-cl", "L_re", "distance of maps"]
    return _markdown([*header, "inside: `max`", "`random`", "middle"], lines)


def _compared_with(row: str) -> str | None:
    return None if row == BASELINE else COMPARED_WITH.get(row, BASELINE)


def _there(study: Study, rows: Iterable[str]) -> list[str]:
    return [row for row in rows if study.seeds(row)]


def _correlation(study: Study, row: str) -> float:
    """Of the logits with those of the supervised network, the mean over common seeds."""
    common = set(study.seeds(row)) & set(study.seeds(BASELINE))
    pairs = [(study.scores[row, seed], study.scores[BASELINE, seed]) for seed in sorted(common)]
    return float(np.mean([np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs]))


def _between_seeds(study: Study) -> float:
    """Of the logits of two seeds of the supervised network, the mean over all pairs."""
    scores = [study.scores[BASELINE, seed].ravel() for seed in study.seeds(BASELINE)]
    correlation = np.corrcoef(scores)
    return float(correlation[np.triu_indices(len(scores), 1)].mean())


def _of_seeds(study: Study, row: str, column: str) -> dict[int, float]:
    found = {seed: study.runs[row, seed][column] for seed in study.seeds(row)}
    return {seed: float(value) for seed, value in found.items() if value}


def _differences(difference: Difference | None) -> list[str]:
    if difference is None:
        return [NONE] * 4
    intervals = (difference.over_seeds, difference.over_images, difference.over_both)
    return [_signed(difference.mean), *map(_interval, intervals)]


def _mean(values: Iterable[float]) -> str:
    values = list(values)
    if not values:
        return NONE
    mean, deviation = mean_and_std(values)
    return f"{mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def _interval(interval: Interval | None) -> str:
    return NONE if interval is None else f"{_signed(interval[0])} to {_signed(interval[1])}"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _markdown(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
