"""How the commands use jax and the libraries around it. Nothing here imports jax by itself."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import absl.flags
import absl.logging

from oass_jax.errors import UserError


def quieten() -> None:
    """For a command: keeps off its output what libraries log, and parses their flags.

    They warn of what is done on purpose; what they log as errors they raise as well.
    """
    absl.flags.FLAGS([""])  # grain and orbax have flags there, all at their defaults
    absl.logging.use_absl_handler()
    absl.logging.set_verbosity(absl.logging.FATAL)
    # It warns of a GPU that is there and cannot be used, before it takes the CPU.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    logging.getLogger("oass_jax").setLevel(logging.WARNING)
    # Of a checkpoint that cannot be read orbax lets fail all other reads, each with a traceback.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what the libraries warn of off the output of a program that is not ours."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.FATAL)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


@contextlib.contextmanager
def memory_reported(advice: str) -> Iterator[None]:
    """Turns the error of a device that has too little memory into one that a user can correct.

    Args:
      advice: what to do.

    Raises:
      UserError: on that error of jax.
    """
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"the device has too little memory: {advice}") from error


def keep_compiled_programs(*, is_alone: bool = True) -> None:
    """Lets JAX keep what it compiles in the user's cache folder: the next start takes seconds.

    What its own variables or the program around have set comes first; an empty
    JAX_COMPILATION_CACHE_DIR keeps nothing.

    Args:
      is_alone: this is the only process of its run. Of several the first alone writes programs. On
        hosts that do not share that folder it would find them at the next start and compile
        nothing, while XLA lets the others wait for its share of the autotuning of GPU kernels.
    """
    import jax

    if not is_alone or jax.config.jax_compilation_cache_dir is not None:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not cache.is_absolute():  # a user of a container may have no home
        return
    jax.config.update("jax_compilation_cache_dir", str(cache / "oass_jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # The many small programs of a start are worth as much as the step.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
