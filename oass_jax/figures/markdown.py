"""Tables -> Markdown that is aligned in a terminal, and rows of CSV."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from oass_jax.figures import paper
from oass_jax.figures.runs import Run
from oass_jax.figures.statistic import Paired, mean_and_std
from oass_jax.figures.table import HEADINGS, Group, Line, Table

NONE = "\N{EN DASH}"

LEGEND = (
    "mAP in percent, mean ± standard deviation over seeds; one seed has no deviation. `vs`: mean "
    "difference over the n seeds both have, with its 95 % confidence interval (Student's t). "
    "Footnotes name what was run otherwise than the row's config."
)


def render(tables: Iterable[Table], notes: Iterable[str]) -> str:
    """The tables with their captions, and what is to be known about the runs.

    Args:
      tables: in the order to print.
      notes: sentences.

    Returns:
      Markdown whose columns are aligned as plain text, too.
    """
    parts = [LEGEND, *(_markdown_table(table) for table in tables)]
    items = "\n".join(f"* {note}" for note in notes)
    return "\n\n".join(parts + [items] * bool(items)) + "\n"


def _markdown_table(table: Table) -> str:
    header = ["method", "architecture", "seeds", "mAP", f"paper, {table.paper.split}", "difference"]
    header += [HEADINGS[name] for name in table.paper.baselines]
    footnotes: dict[str, int] = {}
    body = []
    for line in table.lines:
        method = line.row.method
        if line.group and line.group.differs:
            number = footnotes.setdefault(line.group.differs, len(footnotes) + 1)
            method += f" [{number}]"
        body.append([method, *_cells(line)])
    widths = [max(len(cells[i]) for cells in (header, *body)) for i in range(len(header))]
    rows = [header, ["-" * width for width in widths], *body]
    grid = "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    )
    notes = [f"[{number}] {differs}" for differs, number in footnotes.items()]
    return "\n\n".join([_caption(table), grid, *notes])


def _caption(table: Table) -> str:
    counts = sorted({line.group.num_images for line in table.lines if line.group})
    images = " or ".join(f"{count:,}" for count in counts)
    name = "Others" if table.paper.number is None else f"Table {table.paper.number}"
    text = f"**{name}.** {table.paper.title}: `{table.evaluation}`, "
    text += f"{images} images." if counts else "no finished run of these rows was evaluated on it."
    if table.paper.evaluation.endswith("_test") and table.evaluation != table.paper.evaluation:
        text += f" The labels of {table.paper.split} are not public, so the runs are on another."
    if any(line.group and line.row.map and not line.comparable for line in table.lines):
        text += (
            f" The paper's figures are of {table.paper.split}, {table.paper.num_images:,} images: "
            "they stand here for reference and are not comparable."
        )
    return text


def _cells(line: Line) -> list[str]:
    reference = NONE if line.row.map is None else f"{line.row.map:.2f}"
    compared = [_paired_cell(paired) for paired in line.compared.values()]
    if line.group is None:
        return [line.row.architecture, "0", NONE, reference, NONE, *compared]
    mean, std = mean_and_std(list(line.group.maps.values()))
    to_paper = difference_to_paper(line)
    return [
        architecture(line),
        str(len(line.group.maps)),
        f"{mean:.2f} ± " + (NONE if std is None else f"{std:.2f}"),
        reference,
        NONE if to_paper is None else f"{to_paper:+z.2f}",
        *compared,
    ]


def _paired_cell(paired: Paired | None) -> str:
    if paired is None:
        return NONE
    interval = f"[{paired.low:+z.2f}, {paired.high:+z.2f}]"
    return f"{paired.mean:+z.2f} {interval} n={paired.num_seeds}"


def architecture(line: Line) -> str:
    """The encoder that was run, or without a run the paper's."""
    if line.group is None:
        return line.row.architecture
    encoder = line.group.settings["model.encoder"]
    return paper.ARCHITECTURES.get(encoder, encoder)


def difference_to_paper(line: Line) -> float | None:
    """Our mean minus the paper's figure, in points; None where they are not comparable."""
    if not line.comparable or line.row.map is None:
        return None
    return mean_and_std(list(line.group.maps.values()))[0] - line.row.map


def table_rows(table: Table) -> list[list[Any]]:
    """A table as rows of CSV, the header first; None is a number there is none of."""
    header = ["row", "method", "architecture", "evaluation", "images", "seeds", "map_mean"]
    header += ["map_std", f"paper_{table.paper.evaluation}", "difference"]
    for name in table.paper.baselines:
        header += [f"vs_{name}{part}" for part in ("_seeds", "", "_low", "_high")]
    rows = [[*header, "differs"]]
    for line in table.lines:
        group = line.group
        maps = list(group.maps.values()) if group else []
        cells = [line.row.name, line.row.method, architecture(line), table.evaluation]
        cells += [
            group.num_images if group else "",
            " ".join(map(str, group.maps if group else ())),
        ]
        cells += mean_and_std(maps) if maps else (None, None)
        cells += [line.row.map, difference_to_paper(line)]
        for paired in line.compared.values():
            cells += (
                [paired.num_seeds, paired.mean, paired.low, paired.high] if paired else [None] * 4
            )
        rows.append([*cells, group.differs if group else ""])
    return rows


def run_rows(
    runs: Iterable[Run], groups: Mapping[str, Mapping[str, Sequence[Group]]]
) -> list[list[Any]]:
    """The runs as rows of CSV, the header first: one for each evaluation the tables are made of.

    Args:
      runs: finished runs.
      groups: evaluation -> row -> its groups.

    Returns:
      `counts` is 1 for what is in a table; 0 for a run that was made again, and one without a
        number.
    """
    header = ["workdir", "row", "seed", "evaluation", "images", "step", "map", "map_voc"]
    rows = [[*header, "counts", "differs"]]
    for run in runs:
        row = paper.method_of(run.fields)
        for evaluation, by_row in groups.items():
            summary = run.evaluations.get(evaluation)
            if summary is None:
                continue
            own = [group for group in by_row.get(row, ()) if run in group.runs.values()]
            cells = [str(run.folder), row, run.seed, evaluation, summary["num_images"]]
            cells += [summary[name] for name in ("step", "map", "map_voc")]
            rows.append([*cells, len(own), own[0].differs if own else ""])
    return rows
