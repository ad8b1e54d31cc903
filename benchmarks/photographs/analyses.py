"""What the scores of the study say beyond its rows: weights, heads, twins, classes and probes."""

import itertools
from collections.abc import Sequence

import numpy as np

from benchmarks.photographs.cells import (
    OVER,
    difference_cells,
    interval_cell,
    markdown_table,
    signed,
)
from benchmarks.photographs.study import BASELINE, CONTROL, PRIMARY, Study
from oass_jax.figures.markdown import NONE

# Rows that differ in the weights of L_p-cl and L_re alone.
OF_WEIGHTS = ("supervised", "max", "max_step1", "max_step2", "max_puzzlecam")
# Pairs of rows whose networks are compared seed by seed.
TWINS = (("max", "supervised"), ("random", "supervised"), ("max", "random"))


def weights_table(study: Study) -> str:
    """Rows between the paper's weights and PuzzleCAM's, `max` with the seeds of each of them."""
    rows = [row for row in OF_WEIGHTS if study.seeds(row)]
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
                *difference_cells(difference)[:3],
                NONE
                if difference is None
                else _mean_correlation(study, row, BASELINE, difference.seeds),
            ]
        )
    header = ["row", "seeds", "L_p-cl", "L_re", "against `supervised`", *OVER[:2]]
    return markdown_table([*header, "correlation of the logits"], lines)


def heads_table(study: Study) -> str:
    """What class-specific instances add, and what they change in the class maps' own logits."""
    row = "max_csi"
    if not study.seeds(row):
        return "Not run yet."
    base, csi, both = f"{row}, base", f"{row}, csi", f"{row}, the mean of both"
    for name, heads in ((base, ("base",)), (csi, ("csi",)), (both, ("base", "csi"))):
        study = study.of_heads(row, heads, name=name)
    lines = []
    compared = ((base, PRIMARY), (csi, base), (csi, PRIMARY), (both, base), (both, PRIMARY))
    for one, other in compared:
        difference = study.difference(one, other)
        if difference is not None:
            seeds = ", ".join(map(str, difference.seeds))
            lines.append([f"`{one}`", f"`{other}`", seeds, *difference_cells(difference)[:3]])
    return markdown_table(["logits of", "against", "seeds", "difference", *OVER[:2]], lines)


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
    return markdown_table(["networks", *(f"seed {seed}" for seed in seeds), "mean"], lines)


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
            [name, f"`{other}`", *difference_cells(difference)[:3]]
            for name, difference in found.items()
        ]
    if not lines:
        return "Not run yet."
    return markdown_table(["`max` on", "against", "difference", *OVER[:2]], lines)


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
            [name, positives, *aps, signed(difference.mean), interval_cell(difference.over_both)]
        )
    header = ["class", "images", f"`{BASELINE}`", f"`{PRIMARY}`", "difference", "over both"]
    return markdown_table(header, lines)


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
    return markdown_table([*header, "inside: `max`", "`random`", "middle"], lines)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _mean_correlation(study: Study, row: str, other: str, seeds: Sequence[int]) -> str:
    """Of the logits of two rows, the mean over seeds."""
    pairs = [(study.scores[row, seed], study.scores[other, seed]) for seed in seeds]
    return f"{np.mean([_correlation(*pair) for pair in pairs]):.3f}"
