"""Trains configs with several seeds, one run after another, and prints the paper's tables.

    python -m oass_jax.sweep runs/table
    python -m oass_jax.sweep runs/own --configs max own.py --seeds 0 1 --config.batch_size=16

A run lies in RUNS_DIR/CONFIG/seedN. The same command continues where it was stopped and skips what
is finished; with other --config flags the runs are given to the program again, which makes further
epochs. For other settings, or where the content of a config file has changed, take another
RUNS_DIR. Runs that fail are reported at the end, with exit
status 1.
"""

import argparse
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oass_jax import command_line, config_file, default_config, table
from oass_jax.command_line import PREFIX
from oass_jax.data import sources
from oass_jax.errors import StoppedError, UserError, nearest
from oass_jax.figures import paper, runs
from oass_jax.run import workdir

PROGRAM = ("-m", "oass_jax.main")
POLL_S = 0.1
# A run is sent another signal than was received here: it may have received that one as well, as
# under Slurm, and the same one twice ends it without saving.
FORWARDED = {
    signal.SIGHUP: signal.SIGTERM,
    signal.SIGINT: signal.SIGTERM,
    signal.SIGTERM: signal.SIGINT,
}


@dataclass(frozen=True)
class Plan:
    """A run to be made.

    Attributes:
      name: of the run, for people.
      workdir: where it lies.
      command: that trains it.
    """

    name: str
    workdir: Path
    command: list[str]


@command_line.command
def main(argv: Sequence[str]) -> int:
    """The command."""
    args, flags = _parse(argv)
    if args.runs_dir.is_file():
        raise UserError(f"{args.runs_dir} is a file: name a folder for the runs")
    _check_flags(flags)
    plans = plan_runs(args.runs_dir, _configs(args), seeds=args.seeds, flags=flags)
    failed = []
    with _Child() as child:
        for plan in plans:
            if not _finish(plan, args.test, child):
                failed.append(plan.name)
    if not _print_tables(args.runs_dir, args.test):
        failed.append("the tables")
    if failed:
        command_line.print_error("failed:" + "".join(f"\n  {name}" for name in failed))
        return 1
    return 0


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = command_line.Parser(
        prog="python -m oass_jax.sweep",
        description=__doc__.splitlines()[0],
        epilog="Every --config.FIELD=VALUE goes to every run.",
    )
    parser.add_argument(
        "runs_dir", type=command_line.path, metavar="RUNS_DIR", help="where the runs lie"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--configs",
        nargs="+",
        metavar="CONFIG",
        help="max, demo:max, path/to/own.py; default every row of the paper's tables",
    )
    which.add_argument(
        "--demo", action="store_true", help="every method on the demo's small network and data"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default 0 1 2")
    parser.add_argument(
        "--test",
        metavar="DATASET",
        choices=sorted(sources.OPENERS),
        help="evaluate its test split, too: voc/2007, for Table 2",
    )
    parser.refuse_unknown(word for word in argv if not word.startswith(PREFIX))
    return parser.parse_known_args(argv)


def _check_flags(flags: Sequence[str]) -> None:
    """Refuses what every run would refuse; the values are left to the runs."""
    fields = config_file.flatten(default_config.get_config().to_dict())
    for flag in flags:
        name = flag.partition("=")[0]
        if not name.startswith(PREFIX):
            raise UserError(f"{flag} is not a flag: write --config.FIELD=VALUE as one word")
        if name == f"{PREFIX}seed":
            raise UserError(f"{flag}: seeds are given as --seeds 0 1 2")
        if (field := name.removeprefix(PREFIX)) not in fields:
            raise UserError(f"{name} is not a field: {nearest(field, fields)}")


def _configs(args: argparse.Namespace) -> Sequence[str]:
    if args.demo:
        # The demo has one encoder: those with ResNet-101 would be the same once more.
        return [f"demo:{row}" for row in paper.ROWS if not row.endswith("_r101")]
    return args.configs or paper.ROWS


def plan_runs(
    runs_dir: Path, configs: Sequence[str], *, seeds: Sequence[int], flags: Sequence[str]
) -> list[Plan]:
    """The runs of every config with every seed.

    Args:
      runs_dir: folder of the runs.
      configs: names of configs, such as `max` and `demo:max`, or paths.
      seeds: of each config.
      flags: for every run.

    Raises:
      UserError: there is no such config, or two would have the same folder.
    """
    folders: dict[str, str] = {}
    for config in configs:
        config_file.load(config)
        stem, _, argument = config.partition(":")
        folder = re.sub(r"[^\w.]+", "-", Path(stem).stem + f":{argument}" * bool(argument))
        if folder in folders:
            raise UserError(f"{folders[folder]} and {config} would have the same folder {folder}")
        folders[folder] = config
    return [
        Plan(
            name=f"{config}, seed {seed}",
            workdir=(place := runs_dir.resolve() / folder / f"seed{seed}"),
            command=[
                *(sys.executable, *PROGRAM, f"--config={config}", *flags),
                *(f"{PREFIX}seed={seed}", f"--workdir={place}"),
            ],
        )
        for folder, config in folders.items()
        for seed in dict.fromkeys(seeds)
    ]


def _finish(plan: Plan, test: str | None, child: "_Child") -> bool:
    """Trains and evaluates as far as that is not done yet; False where a command failed."""
    record = _find_record(plan)
    todo = [] if record else [plan.command]
    if test and not (record and _is_evaluated(record, test)):
        todo.append(_evaluation_command(plan, test))
    print(f"== {plan.name}" + ": finished" * (not todo), file=sys.stderr)
    return all(child.run(command) == 0 for command in todo)


def _find_record(plan: Plan) -> runs.Run | None:
    """What the workdir says of the run if this command, from any Python, came to its end."""
    found, _ = runs.read_all([plan.workdir])
    is_same = found and shlex.split(found[0].command)[1:] == plan.command[1:]
    return found[0] if is_same else None


def _is_evaluated(record: runs.Run, test: str) -> bool:
    """Whether the test split was evaluated after the training, not with earlier weights."""
    summary = workdir.Workdir(record.folder).evaluation(test, "test") / workdir.SUMMARY
    return summary.exists() and summary.stat().st_mtime >= record.ended.timestamp()


def _evaluation_command(plan: Plan, test: str) -> list[str]:
    words = [f"--workdir={plan.workdir}", "--mode=eval"]
    words += [f"{PREFIX}eval.dataset={test}", f"{PREFIX}eval.split=test"]
    return [sys.executable, *PROGRAM, *words]


def _print_tables(runs_dir: Path, test: str | None) -> bool:
    try:
        text = table.write_tables(
            [runs_dir], runs_dir, test=test and workdir.evaluation_name(test, "test")
        )
    except UserError as error:
        command_line.print_error(str(error))
        return False
    print(text, end="")
    return True


class _Child:
    """Runs commands, and hands signals to the one that is running.

    The first signal asks it to save and ends the program when it has, the second one ends it
    without. It has a session of its own, so a terminal's signals come from here alone.
    """

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._received: signal.Signals | None = None

    def __enter__(self) -> "_Child":
        # What is ignored, as under nohup, stays so here; a function, since the child would inherit
        # SIG_IGN and with it never see what is forwarded.
        self._previous = {
            number: signal.signal(number, _ignore if ignored else self._forward)
            for number in FORWARDED
            for ignored in [signal.getsignal(number) is signal.SIG_IGN]
        }
        return self

    def __exit__(self, *exc_info: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> int:
        """The exit status of a command; ends the program if a signal has been received."""
        status = 0
        if not self._received:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, start_new_session=True
            )
            if self._received:  # while it was being started
                self._process.send_signal(FORWARDED[self._received])
            # Not wait(): the system may hand a signal to one of NumPy's threads, and then this one
            # would sleep on until the run ends.
            while (status := self._process.poll()) is None:
                time.sleep(POLL_S)
        if self._received:
            print("stopped; the same command continues", file=sys.stderr)
            sys.exit(StoppedError.status)
        return status

    def _forward(self, number: int, frame: Any) -> None:
        del frame
        # A second signal has to be the one the first was: see FORWARDED.
        self._received = self._received or signal.Signals(number)
        if self._process is not None:
            self._process.send_signal(FORWARDED[self._received])


def _ignore(number: int, frame: Any) -> None:
    del number, frame


if __name__ == "__main__":
    sys.exit(main())
