"""Trains, or evaluates a checkpoint or its class maps.

    python -m oass_jax.main --config=configs/max.py --workdir=runs/max
    python -m oass_jax.main --config=configs/max.py --workdir=runs/max --mode=eval
    python -m oass_jax.main --config=configs/max.py --workdir=runs/max --mode=cam

The first command continues the run if there is one in the workdir. Every field of the config can be
set: --config.batch_size=16. The fields are in oass_jax/default_config.py.
"""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from oass_jax import command_line
from oass_jax.errors import UserError

FLAGS = flags.FLAGS

config_flags.DEFINE_config_file("config", None, "A file of configs/, such as configs/max.py.")
flags.DEFINE_string("workdir", None, "Folder of the run; made if it does not exist.")
flags.DEFINE_bool("distributed", False, "One of the processes of a TPU pod or a Slurm job.")
flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "cam"],
    "Train, evaluate a checkpoint, or measure its class maps against segmentation masks.",
)


def main() -> None:
    """Runs the loop. Imports it late, so that mistakes and worker processes do without jax."""
    _keep_compiled_programs()
    import jax

    from oass_jax.evaluation import evaluate_run
    from oass_jax.run.workdir import Workdir
    from oass_jax.training import loop, monitor

    if FLAGS.distributed:
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"--distributed found no pod or Slurm job to join ({error}): leave it out"
            ) from error
    run = {
        "train": loop.train_and_evaluate,
        "eval": evaluate_run.evaluate_checkpoint,
        "cam": evaluate_run.evaluate_class_maps,
    }[FLAGS.mode]
    try:
        run(FLAGS.config, Workdir(Path(FLAGS.workdir), writes=jax.process_index() == 0))
    except monitor.DivergedError as error:
        sys.exit(f"error: {error}")
    except monitor.StoppedError as error:
        print(error)
        sys.exit(error.status)


def _keep_compiled_programs() -> None:
    """Lets JAX keep what it compiles in the user's cache folder: the next start takes seconds.

    Its own variables come first; an empty JAX_COMPILATION_CACHE_DIR keeps nothing.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "oass_jax"))
    # The many small programs of a start are worth as much as the step.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


if __name__ == "__main__":
    command_line.run(main)
