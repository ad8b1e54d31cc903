"""Prepares a data set ahead of time and prints its splits.

python -m oass_jax.prepare --dataset=voc/2012 --manual_dir=DIR --data_dir=DIR
"""

import sys
from collections.abc import Sequence

from oass_jax import command_line


@command_line.command
def main(argv: Sequence[str]) -> None:
    """The command. Imports the data sets late, so that errors answer at once."""
    parser = command_line.Parser(
        prog="python -m oass_jax.prepare", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--dataset", required=True, help="such as voc/2012 or digit_scenes")
    parser.add_argument(
        "--data_dir", type=command_line.path, metavar="DIR", help="where prepared data lies"
    )
    parser.add_argument(
        "--manual_dir", type=command_line.path, metavar="DIR", help="of archives to prepare from"
    )
    args = parser.parse_args(argv)
    from oass_jax.data.prepare import prepare

    builder = prepare(args.dataset, data_dir=args.data_dir, manual_dir=args.manual_dir)
    print(f"{builder.info.full_name} in {builder.data_dir}")
    for split, info in builder.info.splits.items():
        print(f"  {split:<12}{info.num_examples:>8,}")


if __name__ == "__main__":
    sys.exit(main())
