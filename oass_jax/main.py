"""Trains, or evaluates a checkpoint or its class maps.

    python -m oass_jax.main --config=max --mode=check
    python -m oass_jax.main --config=max --mode=dryrun
    python -m oass_jax.main --config=max --workdir=runs/max
    python -m oass_jax.main --workdir=runs/max --mode=eval
    python -m oass_jax.main --workdir=runs/max --mode=cam

`check` reads and decodes all images; `dryrun` makes two steps, an evaluation and a checkpoint, and
tells time and memory. The third command trains, or continues the run if there is one in the
workdir. Every field of the config can be set: --config.batch_size=16. The fields are in
oass_jax/default_config.py. The last two take the config from the workdir; they accept
--config.eval.FIELD, --config.cam.FIELD and where the data is.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from oass_jax import command_line, config_file, config_flags, default_config
from oass_jax.errors import (
    DivergedError,
    LostProcessError,
    StoppedError,
    UserError,
    nearest,
    of_the_system,
)
from oass_jax.run import libraries

MODES = ("train", "eval", "cam", "check", "dryrun")
# Flag -> variable of the environment, type and meaning: where a process stands in its run.
PLACE = {
    "--coordinator": ("JAX_COORDINATOR_ADDRESS", str, "HOST:PORT of the first process"),
    "--num_processes": ("JAX_NUM_PROCESSES", int, "of the run"),
    "--process_id": ("JAX_PROCESS_ID", int, "of this process, from 0"),
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Understands the command line.

    Args:
      argv: without the program.

    Returns:
      `config`, a checked ConfigDict, `workdir`, a path or None, `mode`, and where the process
      stands: `distributed`, `coordinator`, `num_processes` and `process_id`.

    Raises:
      UserError: there is something wrong with a flag or the config.
    """
    parser = command_line.Parser(
        prog="python -m oass_jax.main",
        usage="%(prog)s --config=CONFIG --workdir=DIR [--config.FIELD=VALUE ...] [flags]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", help="one of those below, or a file of your own: my/config.py")
    parser.add_argument("--workdir", metavar="DIR", help="of the run; made if it does not exist")
    parser.add_argument(
        "--mode", default="train", help="train (default), eval, cam, check or dryrun"
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes; a TPU pod, Slurm and Open MPI say which",
    )
    for flag, (variable, kind, text) in PLACE.items():
        parser.add_argument(
            flag,
            type=kind,
            metavar=flag[2:].upper(),
            default=os.environ.get(variable),
            help=f"with --distributed elsewhere: {text}; default ${variable}",
        )
    if {"-h", "--help"} & {*argv}:
        parser.epilog = _list_configs()
    parser.refuse_unknown(word for word in argv if not config_flags.is_override(word))
    args, overrides = parser.parse_known_args(argv)
    if not args.distributed and (alone := [flag for flag in PLACE if _is_given(flag, argv)]):
        raise UserError(f"{alone[0]} is of one of several processes: add --distributed")
    if args.mode not in MODES:
        raise UserError(f"--mode={args.mode}: {nearest(args.mode, MODES)}")
    evaluates = args.mode in ("eval", "cam")
    if not evaluates and not args.config:
        raise UserError("--config is missing: --help lists the configs")
    if not args.workdir and args.mode not in ("check", "dryrun"):
        raise UserError("--workdir is missing: name a folder for the run")
    args.workdir = command_line.path(args.workdir) if args.workdir else None
    if not evaluates:
        args.config = config_flags.to_train(args.config, overrides)
    else:
        args.config = config_flags.to_evaluate(args.workdir, args.config, overrides)
    return args


def _is_given(flag: str, argv: Sequence[str]) -> bool:
    return any(word.partition("=")[0] == flag for word in argv)


def _list_configs() -> str:
    configs = config_file.descriptions()
    width = max(map(len, configs))
    return "\n".join(
        [
            f"configs, in {config_file.FOLDER}:",
            *(f"  {name:<{width}}  {text}" for name, text in configs.items()),
            "",
            f"fields, with their defaults and meanings, in {default_config.__file__}",
        ]
    )


@command_line.command
def main(argv: Sequence[str]) -> int:
    """The command. Imports the loop late, so that errors and worker processes do without jax."""
    args = parse(argv)
    libraries.quieten()
    libraries.keep_compiled_programs(is_alone=not args.distributed)
    import jax

    from oass_jax.evaluation import evaluate_run
    from oass_jax.run import processes
    from oass_jax.run.check_data import check_data
    from oass_jax.run.workdir import Workdir
    from oass_jax.training import loop
    from oass_jax.training.dry_run import dry_run

    run = {
        "train": loop.train_and_evaluate,
        "eval": evaluate_run.evaluate_checkpoint,
        "cam": evaluate_run.evaluate_class_maps,
        "check": check_data,
        "dryrun": dry_run,
    }[args.mode]
    advice = (
        "lower --config.batch_size (of an evaluation eval.batch_size) or augment.image_px, or set "
        "--config.model.remat=True"
    )
    try:
        if args.distributed:
            processes.join(processes.Place(args.coordinator, args.num_processes, args.process_id))
            # JAX keeps it for those that ask, as several processes do that train.
            if args.mode != "train" or jax.process_count() == 1:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        folder = args.workdir and Workdir(args.workdir, writes=jax.process_index() == 0)
        with libraries.memory_reported(advice):
            if args.distributed:
                fields = config_file.flatten(args.config.to_dict())
                processes.agree(processes.facts_of(fields))
            return run(args.config, folder) or 0
    except (DivergedError, LostProcessError) as error:
        command_line.print_error(str(error))
        return error.status
    except StoppedError as error:
        print(error)
        return error.status
    except BaseException as error:
        if not args.distributed:
            raise
        # To exit would be to wait for the others, which may wait for this one.
        processes.leave(_report(processes.lost(error) or error))


def _report(error: BaseException) -> int:
    """Prints the error of one of several processes; its exit status."""
    error = of_the_system(error) or error
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    if not isinstance(error, LostProcessError | UserError):
        traceback.print_exception(error)
        return 1
    command_line.print_error(str(error))
    return getattr(error, "status", 2)


if __name__ == "__main__":
    sys.exit(main())
