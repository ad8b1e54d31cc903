"""Makes `report.html` of a finished run: one page with numbers, curves and images, to be sent.

    python -m oass_jax.report --workdir=runs/own
    python -m oass_jax.report --workdir=runs/own,runs/other

The page needs no network and no other file. Several runs, evaluated on the same images, are
compared with the first.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from oass_jax import command_line
from oass_jax.errors import UserError
from oass_jax.figures import source
from oass_jax.run.files import write_bytes
from oass_jax.run.workdir import Workdir


@command_line.command
def main(argv: Sequence[str]) -> None:
    """The command."""
    parser = command_line.Parser(
        prog="python -m oass_jax.report", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--workdir",
        required=True,
        type=lambda text: [command_line.path(root) for root in text.split(",")],
        action="extend",
        metavar="A[,B,...]",
        help="of a run, or several to compare",
    )
    parser.add_argument(
        "--eval",
        metavar="DATASET_SPLIT",
        help="the evaluation, such as voc-2012_val; default that of the validation split",
    )
    parser.add_argument(
        "--out",
        type=command_line.path,
        metavar="FILE",
        help="default report.html in the first workdir",
    )
    args = parser.parse_args(argv)
    out = write_report(args.workdir, args.out, evaluation=args.eval)
    print(f"written to {out}")


def write_report(
    roots: Sequence[Path], out: Path | None = None, *, evaluation: str | None = None
) -> Path:
    """Makes the report and writes it.

    Args:
      roots: workdirs; all but the first are compared with the first.
      out: the file; None for `report.html` in the first workdir.
      evaluation: `DATASET_SPLIT`; None for the first run's validation split, or else the only one.

    Returns:
      The file.

    Raises:
      UserError: there is no such run or evaluation, its files are damaged, the runs cannot be
        compared, or the file cannot be written.
    """
    folders = [Workdir(root) for root in roots]
    chosen = source.choose_evaluation(folders, evaluation)
    names = source.short_names(folders)
    if len(set(names)) < len(names):
        raise UserError(f"{folders[0].root} is named twice: compare a run with another one")
    sources = [
        source.read(folder, chosen, name=name) for folder, name in zip(folders, names, strict=True)
    ]
    # What a mistake need not wait for.
    from oass_jax.figures.report import page

    text = page.render(sources)
    out = folders[0].report if out is None else out
    try:
        write_bytes(out, text.encode())
    except OSError as error:
        raise UserError(f"cannot write --out={out}: {error.strerror}") from error
    return out


if __name__ == "__main__":
    sys.exit(main())
