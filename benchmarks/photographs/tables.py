"""The collected runs of the study -> the tables and sentences of `docs/results.md`.

    python -m benchmarks.photographs.tables results --docs=docs/results.md

Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->`, so that no number is typed by
hand; the rest of the text is left alone.
"""

import csv
import itertools
import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.photographs.study import (
    ANIMALS,
    ROWS,
    Difference,
    Interval,
    Study,
    probes,
    read,
)
from oass_jax import command_line
from oass_jax.errors import UserError
from oass_jax.figures.markdown import NONE
from oass_jax.figures.statistic import mean_and_std, paired_difference
from oass_jax.run.files import write_bytes

BASELINE, PRIMARY = "supervised", "max"
CONTROL = "random"  # of the keypoint
LONG, LONG_BASELINE = "max_long", "supervised_long"
# Row -> the one it is compared with, where that is not `BASELINE`.
COMPARED_WITH = {LONG: LONG_BASELINE}
# Rows that differ in the weights of L_p-cl and L_re alone.
OF_WEIGHTS = ("supervised", "max", "max_step1", "max_step2", "max_puzzlecam")

# Pairs of rows whose networks are compared seed by seed.
TWINS = (("max", "supervised"), ("random", "supervised"), ("max", "random"))
MEASURES_OF_MAPS = ("miou", "pointing_game")
OVER = ("over seeds", "over images", "over both")
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
        "weights": weights_table(study),
        "heads": heads_table(study),
        "twins": twins_table(study),
        "afterwards": afterwards_table(study),
        "classes": classes_table(study),
        "probes": probes_table(probes(results / "photographs")),
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
        f"{_signed(difference.mean)} points of mAP, 95 % interval over {over} "
        f"{_interval(interval)}"
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
                _mean(float(run["map"]) for run in runs),
                _mean(float(run["map_voc"]) for run in runs),
                _mean(np.nanmean(study.ap(row, ema=True), axis=1)) if has_ema else NONE,
                NONE if difference is None else _with_mean(study, other, difference.seeds),
                *_differences(difference),
                NONE if without is None else _signed(without.mean),
                f"{np.median(hours):.2f}" if hours else NONE,
            ]
        )
    header = ["row", "seeds", "mAP", "VOC's formula", "EMA weights", "against, with these seeds"]
    return _markdown([*header, "difference", *OVER, "without animals", "hours"], lines)


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
    """Rows between the paper's weights and PuzzleCAM's, `max` with the seeds of each of them."""
    rows = _there(study, OF_WEIGHTS)
    seeds_of = {row: study.seeds(row) for row in rows}
    wanted = [(row, seeds) for row, seeds in seeds_of.items() if row != PRIMARY]
    of_primary = {tuple(s for s in seeds if s in seeds_of.get(PRIMARY, ())) for _, seeds in wanted}
    wanted += [(PRIMARY, seeds) for seeds in of_primary if seeds]
    lines = []
    for row, seeds in sorted(wanted, key=lambda each: (rows.index(each[0]), -len(each[1]))):
        run = study.runs[row, seeds[0]]
        difference = None if row == BASELINE else study.difference(row, BASELINE, seeds=seeds)
        lines.append(
            [
                f"`{row}`",
                ", ".join(map(str, seeds)),
                f"{float(run['alpha_p']):.3f}",
                f"{float(run['alpha_re']):.3f}",
                *_differences(difference)[:1],
                NONE if difference is None else _interval(difference.over_images),
                NONE
                if difference is None
                else _mean_correlation(study, row, BASELINE, difference.seeds),
            ]
        )
    header = ["row", "seeds", "L_p-cl", "L_re", "against `supervised`", "over images"]
    return _markdown([*header, "correlation of the logits"], lines)


def heads_table(study: Study) -> str:
    """What class-specific instances add, and what they change in the class maps' own logits."""
    row, base, csi = "max_csi", "max_csi, base", "max_csi, csi"
    if not study.seeds(row):
        return "Not run yet."
    both = study.of_head(row, "base", name=base).of_head(row, "csi", name=csi)
    lines = []
    for one, other in ((base, PRIMARY), (csi, base), (csi, PRIMARY)):
        difference = both.difference(one, other)
        if difference is not None:
            seeds = ", ".join(map(str, difference.seeds))
            lines.append([f"`{one}`", f"`{other}`", seeds, *_differences(difference)[:3]])
    return _markdown(["logits of", "against", "seeds", "difference", *OVER[:2]], lines)


def twins_table(study: Study) -> str:
    """Correlation of the logits of two rows, seed by seed, and of two seeds of a row."""
    seeds = study.seeds(BASELINE)
    lines = []
    for row, other in TWINS:
        found = [
            _correlation(study.scores[row, seed], study.scores[other, seed])
            if (row, seed) in study.scores and (other, seed) in study.scores
            else None
            for seed in seeds
        ]
        cells = [NONE if x is None else f"{x:.3f}" for x in found]
        known = [x for x in found if x is not None]
        lines.append([f"`{row}`, `{other}`", *cells, f"{np.mean(known):.3f}" if known else NONE])
    pairs = [
        _correlation(study.scores[BASELINE, one], study.scores[BASELINE, other])
        for one, other in itertools.combinations(seeds, 2)
    ]
    if pairs:
        name = f"`{BASELINE}`, any two seeds"
        lines.append([name, *[NONE] * len(seeds), f"{np.mean(pairs):.3f}"])
    return _markdown(["networks", *(f"seed {seed}" for seed in seeds), "mean"], lines)


def afterwards_table(study: Study) -> str:
    """Analyses that nobody planned, of `max` against `supervised` and against its control."""
    several = (study.label == 1).sum(axis=1) >= 2
    subset = study.of_images(several)
    frequent = (subset.label == 1).sum(axis=0) >= 5
    kept = [name for name, is_kept in zip(study.class_names, frequent, strict=True) if is_kept]
    what = f"{several.sum()} images with several labels, {len(kept)} classes with five or more"
    lines = []
    for other in (BASELINE, CONTROL):
        if study.difference(PRIMARY, other) is None:
            continue
        mean = study.of_mean_logits((PRIMARY, other)).difference(PRIMARY, other)
        found = {
            what: subset.difference(PRIMARY, other, classes=kept),
            "the mean of the seeds' logits, as one network": mean,
        }
        lines += [
            [name, f"`{other}`", *_differences(difference)[:3]]
            for name, difference in found.items()
        ]
    if not lines:
        return "Not run yet."
    return _markdown(["`max` on", "against", "difference", *OVER[:2]], lines)


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


def probes_table(found: dict[tuple[str, int], list[dict[str, float]]]) -> str:
    """Gradients, maps and cuts at each moment of the runs that were probed."""
    lines = [
        [
            f"`{row}`",
            seed,
            f"{x['epoch']:.1f}",
            f"{x['loss_cls']:.3f}",
            *(f"{x[f'encoder_{name}']:.2f}" for name in ("cls", "pcl", "re")),
            f"{x['encoder_cos_re']:.2f}",
            *(f"{x[f'head_{name}']:.2f}" for name in ("cls", "pcl", "re")),
            f"{x['loss_re'] / x['map_size']:.2f}",
            *(f"{100 * x[f'inside_{name}']:.0f} %" for name in ("max", "random", "center")),
        ]
        for (row, seed), moments in found.items()
        for x in moments
    ]
    if not lines:
        return "Not run yet."
    header = ["row", "seed", "epoch", "L_cls"]
    header += ["gradients in the encoder: L_cls", "L_p-cl", "L_re", "cos(L_re, L_cls)"]
    header += ["in the head: L_cls", "L_p-cl", "L_re", "distance of maps"]
    return _markdown([*header, "inside: `max`", "`random`", "middle"], lines)


def _compared_with(row: str) -> str | None:
    return None if row == BASELINE else COMPARED_WITH.get(row, BASELINE)


def _there(study: Study, rows: Iterable[str]) -> list[str]:
    return [row for row in rows if study.seeds(row)]


def _with_mean(study: Study, row: str, seeds: Sequence[int]) -> str:
    """A row and its mAP with some of its seeds."""
    return f"`{row}`, {np.mean([float(study.runs[row, seed]['map']) for seed in seeds]):.2f}"


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _mean_correlation(study: Study, row: str, other: str, seeds: Sequence[int]) -> str:
    """Of the logits of two rows, the mean over seeds."""
    pairs = [(study.scores[row, seed], study.scores[other, seed]) for seed in seeds]
    return f"{np.mean([_correlation(*pair) for pair in pairs]):.3f}"


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
