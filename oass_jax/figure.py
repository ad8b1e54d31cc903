"""Draws the paper's Figs. 2, 4, 5 and 6, each as PNG and SVG, with their numbers as CSV.

    python -m oass_jax.figure 2 --dataset=voc/2012 --split=train --out=figures
    python -m oass_jax.figure 4 --workdir=runs/max --image=photo.jpg --out=figures
    python -m oass_jax.figure 5 --workdir=runs/max --baseline=runs/puzzlecam --out=figures
    python -m oass_jax.figure 6 --workdir=runs/max --baseline=runs/puzzlecam --out=figures

The files are figureN.png, figureN.svg and figureN.csv. `figure N --help` has the flags of each.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from oass_jax import command_line, figure_files
from oass_jax.errors import DivergedError


@command_line.command
def main(argv: Sequence[str]) -> int:
    """The command. Imports what a figure needs late, so that errors answer at once."""
    args = parse(argv)
    from oass_jax.run.files import write_files

    try:
        files = args.draw_fn(args)
    except DivergedError as error:
        command_line.print_error(str(error))
        return error.status
    write_files(args.out, files, flag="--out")
    print(f"written to {args.out}: {', '.join(files)}")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Understands the command line.

    Args:
      argv: without the program.

    Returns:
      `draw_fn`, and the flags of the figure.

    Raises:
      UserError: there is something wrong with a flag.
    """
    parser = command_line.Parser(
        prog="python -m oass_jax.figure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    figures = parser.add_subparsers(metavar="FIGURE", required=True, title="figures")

    shift = _add(
        figures, "2", figure_files.draw_object_shift, "how far objects lie from the image's centre"
    )
    _add_data_flags(shift, dataset="voc/2012", split="train")

    marks = _add(
        figures, "4", figure_files.draw_keypoints, "keypoints of the strategies on one image"
    )
    _add_workdir(marks, "of the run whose network gives the class maps")
    marks.add_argument(
        "--image",
        required=True,
        metavar="FILE",
        help="an image file; or the name of an image of the split that the run is evaluated on, "
        "whose labels and boxes are known",
    )
    marks.add_argument(
        "--label",
        action="append",
        metavar="CLASS",
        help="a class to find keypoints of; may be repeated; default the labels of the image where "
        "they are known, else those that are predicted",
    )

    maps = _add(figures, "5", figure_files.draw_class_maps, "class maps of two runs")
    _add_workdir(maps, "of the run in the lower row")
    _add_workdir(maps, "of the run in the upper row", flag="--baseline")
    maps.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="image files; default some of the split that the run is evaluated on",
    )

    gain = _add(
        figures, "6", figure_files.draw_per_class_gain, "gain of each class over another run"
    )
    _add_workdir(gain, "of the run")
    _add_workdir(gain, "of the run that it is compared with", flag="--baseline")
    gain.add_argument(
        "--eval",
        metavar="DATASET_SPLIT",
        help="evaluation of both runs; default that of the run's validation split",
    )
    _add_data_flags(gain, dataset="that of the run", split="the run's for training")
    return parser.parse_args(argv)


def _add(
    figures: argparse._SubParsersAction,
    name: str,
    draw_fn: Callable[..., figure_files.Files],
    text: str,
) -> command_line.Parser:
    parser = figures.add_parser(
        name, help=text, description=f"Draws Fig. {name}: {text}. {draw_fn.__doc__.splitlines()[0]}"
    )
    parser.set_defaults(draw_fn=draw_fn)
    parser.add_argument(
        "--out", type=command_line.path, required=True, metavar="DIR", help="write the files there"
    )
    return parser


def _add_workdir(parser: command_line.Parser, text: str, flag: str = "--workdir") -> None:
    parser.add_argument(flag, type=command_line.path, required=True, metavar="DIR", help=text)


def _add_data_flags(parser: command_line.Parser, *, dataset: str, split: str) -> None:
    parser.add_argument("--dataset", help=f"whose boxes are measured; default {dataset}")
    parser.add_argument("--split", help=f"of that data set; default {split}")
    parser.add_argument("--data_dir", metavar="DIR", help="where prepared data lies")
    parser.add_argument("--manual_dir", metavar="DIR", help="of archives to prepare from")
    parser.add_argument(
        "--path", metavar="PATH", help="the list or folder of coco, voc_folder, tfds"
    )
    parser.add_argument("--image_dir", metavar="DIR", help="what names in a list are relative to")


if __name__ == "__main__":
    sys.exit(main())
