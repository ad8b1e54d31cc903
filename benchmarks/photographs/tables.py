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

from benchmarks.photographs import analyses
from benchmarks.photographs.cells import (
    OVER,
    difference_cells,
    interval_cell,
    markdown_table,
    mean_cell,
    signed,
)
from benchmarks.photographs.study import (
    ANIMALS,
    BASELINE,
    CONTROL,
    PRIMARY,
    ROWS,
    Study,
    probes,
    read,
)
from oass_jax import command_line
from oass_jax.errors import UserError
from oass_jax.figures.markdown import NONE
from oass_jax.figures.statistic import paired_difference
from oass_jax.run.files import write_bytes

LONG, LONG_BASELINE = "max_long", "supervised_long"
# Row -> the one it is compared with, where that is not `BASELINE`.
COMPARED_WITH = {LONG: LONG_BASELINE}
MEASURES_OF_MAPS = ("miou", "pointing_game")
# With fewer, the bootstrap over seeds is not to be trusted.
MIN_SEEDS = 5


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
        "puzzlecam": comparison(study, PRIMARY, "puzzlecam"),
        "long": comparison(study, LONG, LONG_BASELINE),
        "rows": rows_table(study),
        "maps": maps_table(study),
        "weights": analyses.weights_table(study),
        "heads": analyses.heads_table(study),
        "twins": analyses.twins_table(study),
        "afterwards": analyses.afterwards_table(study),
        "classes": analyses.classes_table(study),
        "probes": analyses.probes_table(probes(results / "photographs")),
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
    number = len(difference.seeds)
    if number == 1:
        over, interval = "images", difference.over_images
    elif number < MIN_SEEDS:
        over, interval = "seeds (Student's t)", difference.over_seeds
    else:
        over, interval = "seeds and images", difference.over_both
    sentence = (
        f"`{row}` against `{other}`, {'one seed' if number == 1 else f'{number} seeds'}: "
        f"{signed(difference.mean)} points of mAP, 95 % interval over {over} "
        f"{interval_cell(interval)}"
    )
    if number == 1:  # which says nothing of another
        return f"{sentence}."
    low, high = interval
    if low <= 0 <= high:
        return f"{sentence}: no difference was seen."
    return f"{sentence}: `{row}` is {'better' if low > 0 else 'worse'}."


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
                mean_cell(float(run["map"]) for run in runs),
                mean_cell(float(run["map_voc"]) for run in runs),
                mean_cell(np.nanmean(study.ap(row, ema=True), axis=1)) if has_ema else NONE,
                NONE if difference is None else _with_mean(study, other, difference.seeds),
                *difference_cells(difference),
                NONE if without is None else signed(without.mean),
                f"{np.median(hours):.2f}" if hours else NONE,
            ]
        )
    header = ["row", "seeds", "mAP", "VOC's formula", "EMA weights", "against, with these seeds"]
    return markdown_table([*header, "difference", *OVER, "without animals", "hours"], lines)


def maps_table(study: Study) -> str:
    """The class maps of every row, and the difference to those of the row it is compared with."""
    lines = []
    for row in _there(study, ROWS):
        other = _compared_with(row)
        cells = [f"`{row}`", NONE if other is None else f"`{other}`"]
        for measure in MEASURES_OF_MAPS:
            values = _of_seeds(study, row, measure)
            paired = other and paired_difference(values, _of_seeds(study, other, measure))
            cells.append(mean_cell(values.values()))
            cells.append(signed(paired.mean) if paired else NONE)
            cells.append(interval_cell((paired.low, paired.high)) if paired else NONE)
        lines.append(cells)
    difference = ["difference", "over seeds"]
    header = ["row", "against", "mIoU", *difference, "pointing game", *difference]
    return markdown_table(header, lines)


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
    return markdown_table(["row", "encoder's learning rate", "epochs", "mAP"], lines)


def _compared_with(row: str) -> str | None:
    return None if row == BASELINE else COMPARED_WITH.get(row, BASELINE)


def _with_mean(study: Study, row: str, seeds: Sequence[int]) -> str:
    """A row and its mAP with some of its seeds."""
    return f"`{row}`, {np.mean([float(study.runs[row, seed]['map']) for seed in seeds]):.2f}"


def _of_seeds(study: Study, row: str, column: str) -> dict[int, float]:
    found = {seed: study.runs[row, seed][column] for seed in study.seeds(row)}
    return {seed: float(value) for seed, value in found.items() if value}


def _there(study: Study, rows: Iterable[str]) -> list[str]:
    return [row for row in rows if study.seeds(row)]


if __name__ == "__main__":
    sys.exit(main())
