"""The probes of the study -> a figure: the gradient of L_re, and how far the teacher's maps lie.

python -m benchmarks.photographs.figure results/photographs --out=docs/photographs_losses.png
"""

import csv
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from oass_jax import command_line
from oass_jax.errors import UserError
from oass_jax.figures import style
from oass_jax.run.files import write_bytes

# Weight of L_re after its ramp -> what it is, and how its line is drawn.
WEIGHTS = {1 / 15: ("1/15 (OASS)", "-"), 4.0: ("4 (PuzzleCAM)", "--")}
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

# Column -> values at each moment of a run.
Probe = dict[str, np.ndarray]


@command_line.command
def main(argv: Sequence[str]) -> None:
    """The command."""
    args = _parse(argv)
    files = style.render(draw, read(args.results))
    write_bytes(args.out, files[".png"])
    print(f"written to {args.out}")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = command_line.Parser(
        prog="python -m benchmarks.photographs.figure", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "results", type=command_line.path, metavar="DIR", help="folder of probe_*.csv"
    )
    parser.add_argument("--out", type=command_line.path, required=True, metavar="FILE.png")
    return parser.parse_args(argv)


def read(folder: Path) -> dict[str, Probe]:
    """Reads what `probe` has written.

    Args:
      folder: of `probe_*.csv`.

    Returns:
      Name of a row of the study -> its probe.

    Raises:
      UserError: there is none.
    """
    probes = {}
    for path in sorted(folder.glob("probe_*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
        probes[path.stem.removeprefix("probe_").removeprefix("photographs-")] = columns
    if not probes:
        raise UserError(f"{folder} has no probe_*.csv: run benchmarks.photographs.probe first")
    return probes


def weighted_ratio(probe: Probe, weight: float) -> np.ndarray:
    """The gradient of L_re in the encoder with its weight, as a multiple of that of L_cls."""
    return weight * probe["encoder_re"] / probe["encoder_cls"]


def draw(probes: dict[str, Probe]) -> Figure:
    """Two panels over the epochs, a colour for each run.

    Args:
      probes: row -> probe.
    """
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (row, probe) in zip(style.COLOURS, probes.items(), strict=False):
        marked = {"color": colour, "marker": "o", "markersize": 3, "label": row}
        for weight, (_, line) in WEIGHTS.items():
            if row == "puzzlecam" and weight < 1:
                continue  # its L_re goes through both sides, and has no other weight
            left.plot(probe["epoch"], weighted_ratio(probe, weight), line, **marked)
        right.plot(probe["epoch"], probe["loss_re"] / probe["map_size"], **marked)
    left.axhline(1, color="black", linewidth=0.8)
    left.set_yscale("log")
    left.set_yticks(TICKS, map(str, TICKS))
    left.minorticks_off()
    left.set_ylabel("gradient of L_re / of L_cls, encoder")
    # Between the lines, which lie far apart; the rows are told at the right.
    left.legend(
        [Line2D([], [], color="black", linestyle=line) for _, line in WEIGHTS.values()],
        [name for name, _ in WEIGHTS.values()],
        title="weight of L_re, after its ramp",
        loc=(0.05, 0.27),
    )
    right.set_ylim(bottom=0)
    right.set_ylabel("distance of maps / their size")
    right.legend(loc=(0.05, 0.55))  # between the lines
    for axes in (left, right):
        axes.set_xlabel("epoch")
    return figure


if __name__ == "__main__":
    sys.exit(main())
