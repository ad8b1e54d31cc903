"""Prints the paper's Tables 1 to 3 beside the paper's figures, from the workdirs of finished runs.

    python -m oass_jax.table runs/table --out=runs/table

A folder of workdirs is searched two levels down. The tables say what is missing; a row without a
run shows the paper's figure alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from oass_jax import command_line
from oass_jax.figures import markdown, paper, table
from oass_jax.figures.runs import find, read_all
from oass_jax.run.files import csv_text, write_files

FLAGS = {
    "--eval": ("voc-2012_val", "evaluation Tables 1 and 3 are made of"),
    "--test": ("voc-2007_test", "evaluation Table 2 is made of"),
}


@command_line.command
def main(argv: Sequence[str]) -> None:
    """The command."""
    parser = command_line.Parser(
        prog="python -m oass_jax.table", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "workdirs",
        nargs="+",
        type=command_line.path,
        metavar="WORKDIR",
        help="of a run, or a folder of such",
    )
    parser.add_argument(
        "--out", type=command_line.path, metavar="DIR", help="write tables.md and CSV there"
    )
    for flag, (default, text) in FLAGS.items():
        parser.add_argument(flag, metavar="DATASET_SPLIT", help=f"{text}; default {default}")
    args = parser.parse_args(argv)
    text = write_tables(args.workdirs, args.out, evaluation=args.eval, test=args.test)
    print(text, end="")


def write_tables(
    places: Sequence[Path],
    out: Path | None,
    *,
    evaluation: str | None = None,
    test: str | None = None,
) -> str:
    """Makes the tables, writes them to the folder `out` if there is one, and returns the Markdown.

    Args:
      places: workdirs, or folders of them.
      out: None to write nothing.
      evaluation: see `create_files`.
      test: see `create_files`.

    Raises:
      UserError: as `create_files`; or `out` cannot be written to.
    """
    files = create_files(places, evaluation=evaluation, test=test)
    if out is not None:
        write_files(out, {name: text.encode() for name, text in files.items()}, flag="--out")
    return files["tables.md"]


def create_files(
    places: Sequence[Path], *, evaluation: str | None, test: str | None
) -> dict[str, str]:
    """Makes the tables.

    Args:
      places: workdirs, or folders of them.
      evaluation: `DATASET_SPLIT` of Tables 1 and 3; None for the default or the only one.
      test: the same for Table 2.

    Returns:
      Name of a file -> its text.

    Raises:
      UserError: no runs there, or not evaluated on what was asked for.
    """
    runs, notes = read_all(find(places))
    wanted = {"--eval": evaluation, "--test": test}
    chosen = {
        flag: table.choose_evaluation(
            runs, flag=flag, wanted=wanted[flag], default=default, is_test=flag == "--test"
        )
        for flag, (default, _) in FLAGS.items()
    }
    groups = {}
    for name in chosen.values():
        groups[name], more = table.group_runs(runs, name)
        notes += more
    tables = [
        table.create_table(of_paper, name, groups[name])
        for of_paper in paper.TABLES
        for name in [chosen["--test" if of_paper.number == 2 else "--eval"]]
    ]
    tables += table.create_others(chosen["--eval"], groups[chosen["--eval"]])
    notes += table.in_no_table(runs, chosen.values())
    # Both evaluations may have given the same note.
    files = {"tables.md": markdown.render(tables, dict.fromkeys(notes))}
    rows = {f"table{one.paper.number or '_others'}": markdown.table_rows(one) for one in tables}
    rows["runs"] = markdown.run_rows(runs, groups)
    return files | {f"{name}.csv": csv_text(header, body) for name, (header, *body) in rows.items()}


if __name__ == "__main__":
    sys.exit(main())
