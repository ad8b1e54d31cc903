"""The probes of the study -> a figure: the gradient of L_re, and how far the teacher's maps lie.

python -m benchmarks.photographs.figure results/photographs --out=docs/photographs_losses.png
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.photographs import study
from oass_jax import command_line, config_file
from oass_jax.errors import UserError
from oass_jax.figures import style
from oass_jax.method import loss
from oass_jax.run.files import write_bytes

# Row whose weight L_re is given -> how the line is drawn.
WEIGHTS_OF = {"max": "-", "puzzlecam": "--"}
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

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


def read(folder: Path) -> dict[tuple[str, int], Probe]:
    """Reads what `probe` has written.

    Args:
      folder: of `probe_ROW_seedN.csv`.

    Returns:
      Row and seed -> probe.

    Raises:
      UserError: there is none.
    """
    probes = {
        run: {name: np.array([moment[name] for moment in moments]) for name in moments[0]}
        for run, moments in study.probes(folder).items()
    }
    if not probes:
        raise UserError(f"{folder} has no probe_*.csv: run benchmarks.photographs.probe first")
    return probes


def weighted_ratio(probe: Probe, row: str) -> np.ndarray:
    """The gradient of L_re in the encoder as a multiple of that of L_cls.

    Args:
      probe: of any run.
      row: whose weight L_re is given, as it is at each moment.
    """
    fields = config_file.load(f"photographs:{row}").loss
    weight_fn = loss.ramp(fields.alpha_re, start_step=0, ramp_steps=fields.alpha_re_ramp_epochs)
    return np.asarray(weight_fn(probe["epoch"])) * probe["encoder_re"] / probe["encoder_cls"]


def draw(probes: dict[tuple[str, int], Probe]) -> Figure:
    """Two panels over the epochs, a colour for each row.

    Args:
      probes: row and seed -> probe.
    """
    rows = list(dict.fromkeys(row for row, _ in probes))
    colours = dict(zip(rows, itertools.cycle(style.COLOURS), strict=False))
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (row, seed), probe in probes.items():
        marked = {"color": colours[row], "marker": "o", "markersize": 3}
        marked["label"] = f"{row}, seed {seed}"
        for of_row, line in WEIGHTS_OF.items():
            if row.startswith("puzzlecam") and of_row == "max":
                continue  # its L_re goes through both sides, and has no other weight
            left.plot(probe["epoch"], weighted_ratio(probe, of_row), line, **marked)
        right.plot(probe["epoch"], probe["loss_re"] / probe["map_size"], **marked)
    left.axhline(1, color="black", linewidth=0.8)
    left.set_yscale("log")
    left.set_yticks(TICKS, map(str, TICKS))
    left.minorticks_off()
    left.set_ylabel("gradient of L_re / of L_cls, encoder")
    # Between the lines, which lie far apart; the rows are told at the right.
    left.legend(
        [Line2D([], [], color="black", linestyle=line) for line in WEIGHTS_OF.values()],
        ["OASS", "PuzzleCAM"],
        title="with the weight at that moment of",
        loc=(0.05, 0.3),
    )
    right.set_ylim(bottom=0)
    right.set_ylabel("distance of maps / their size")
    right.legend(loc=(0.05, 0.55))  # between the lines
    for axes in (left, right):
        axes.set_xlabel("epoch")
    return figure


if __name__ == "__main__":
    sys.exit(main())
