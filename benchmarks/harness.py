"""Training steps of the configs on random images, timed in turns."""

import json
import platform
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from oass_jax import command_line, config_file, default_config
from oass_jax.model import encoders

NUM_CLASSES = 20
POSITIVES = 1.555  # labels an image of train_aug has on average


def parser(description: str) -> command_line.Parser:
    """The options that every benchmark of a step has."""
    options = command_line.Parser(description=description.splitlines()[0])
    options.add_argument("--image_px", type=int, default=128, help="side of the input")
    options.add_argument("--batch_size", type=int, default=16)
    options.add_argument("--encoder", default="resnet50", choices=tuple(encoders.ENCODERS))
    options.add_argument(
        "--dtype", default="float32", choices=default_config.CHOICES["model.dtype"]
    )
    options.add_argument("--repeats", type=int, default=7, help="timed steps of each, in turns")
    options.add_argument("--chunk_pairs", type=int, default=8)
    options.add_argument(
        "--out", type=command_line.path, help="folder for the JSON file; none without it"
    )
    return options


def run(main: Callable[[], None]) -> None:
    """Runs a benchmark; a user's error is reported in one line."""
    command_line.command(lambda _: main())()


def label_of(batch_size: int) -> np.ndarray:
    """Labels `[B, C]` with as many positives as in VOC, spread evenly over the images."""
    label = np.zeros((batch_size, NUM_CLASSES), np.int8)
    for pair in range(round(POSITIVES * batch_size)):
        label[pair % batch_size, pair // batch_size] = 1
    return label


def config_of(name: str, options: Namespace, **fields: Any) -> Any:
    """A config at the size that the options ask for.

    Args:
      name: of the config.
      options: from `parser`.
      **fields: of the config, such as `**{"teacher.mode": "none"}`.

    Raises:
      UserError: there is no such config.
    """
    config = config_file.load(name)
    config.batch_size = options.batch_size
    config.model.encoder = options.encoder
    config.model.dtype = options.dtype
    config.augment.image_px = options.image_px
    config.augment.long_side_px = (options.image_px * 5 // 8, options.image_px * 5 // 4)
    config.keypoint.margin_cells = max(1, options.image_px // 128)
    config.teacher.chunk_pairs = options.chunk_pairs
    config.update_from_flattened_dict(fields)
    return config


def random_batch(batch_size: int, image_px: int) -> dict[str, np.ndarray]:
    """Noise as images of full size, with boxes: what the training step reads of a batch."""
    rng = np.random.default_rng(0)
    corner = rng.random((batch_size, 8, 2)).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (batch_size, image_px, image_px, 3), np.uint8),
        "size": np.full((batch_size, 2), image_px, np.int32),
        "label": label_of(batch_size),
        "boxes": np.concatenate([corner * 0.5, corner * 0.5 + 0.5], axis=-1),
        "box_label": rng.integers(0, NUM_CLASSES, (batch_size, 8)).astype(np.int32),
    }


def create_step(config: Any, mesh: Any) -> tuple[Any, Callable[[], Any], Any]:
    """The parts of a config's training step.

    Args:
      config: every field.
      mesh: one axis, `data`.

    Returns:
      The network, a function that creates the first state, and the step, not yet compiled.
    """
    import jax

    from oass_jax.run import build, state
    from oass_jax.training import build as training_build

    network = build.create_network(config, NUM_CLASSES)
    schedule = training_build.create_schedule(config, 10_000)
    tx, _ = training_build.create_optimizer(config, schedule)

    def create_state() -> Any:
        return state.create_state(
            build.init_variables(network, 0),
            tx=tx,
            rng=jax.random.PRNGKey(0),
            teacher=config.teacher.mode,
        )

    train_fn = training_build.create_train_fn(config, network, tx, schedule, mesh)
    return network, create_state, train_fn


def peak_bytes(compiled: Any) -> int:
    """What a compiled step needs of a device: its arguments, and what XLA plans on top."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


class Step:
    """One config's compiled training step, its state, and a batch on the device.

    Attributes:
      config: that of the step.
      encoder: of its network.
      compile_s: seconds to trace and compile.
      peak_bytes: on one device, see `peak_bytes`.
    """

    def __init__(self, name: str, options: Namespace, **fields: Any):
        """Compiles the step; nothing has run yet.

        Args:
          name: of a config.
          options: from `parser`.
          **fields: of the config.
        """
        import jax

        from oass_jax.run import build

        self.config = config_of(name, options, **fields)
        mesh = build.create_mesh()
        network, create_state, train_fn = create_step(self.config, mesh)
        self.encoder = network.encoder
        self._state = jax.device_put(create_state(), build.replicated(mesh))
        batch = random_batch(options.batch_size, options.image_px)
        self._batch = build.to_device(batch, tuple(batch), mesh)
        began = time.perf_counter()
        self._compiled = train_fn.lower(self._state, self._batch).compile()
        self.compile_s = time.perf_counter() - began
        self.peak_bytes = peak_bytes(self._compiled)

    def run(self) -> float:
        """One step; its seconds."""
        import jax

        began = time.perf_counter()
        self._state, metrics = self._compiled(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - began


def in_turns(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, np.ndarray]:
    """Times functions one after the other, again and again, so that noise meets them alike.

    Args:
      runs: name -> function that returns its seconds.
      repeats: of each.

    Returns:
      Name -> seconds `[repeats]`; a first round, which warms caches, is not counted.
    """
    times = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(run())
    return {name: np.array(values) for name, values in times.items()}


def spread(values: np.ndarray) -> str:
    """Median and range as text, at least three digits of each."""
    numbers = np.median(values), values.min(), values.max()
    middle, low, high = (f"{x:.0f}" if abs(x) >= 100 else f"{x:#.3g}" for x in numbers)
    return f"{middle} ({low} to {high})"


def report(
    name: str, options: Namespace, header: Sequence[str], rows: list[list], **more: Any
) -> None:
    """Prints a Markdown table and writes `NAME.json` into the folder of `--out`.

    Args:
      name: of the benchmark.
      options: what it was run with.
      header: of the table.
      rows: of the table.
      **more: what else belongs in the file.
    """
    import jax

    about = {
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "options": {k: str(v) for k, v in vars(options).items()},
    }
    print(f"\n{about['devices']} x {about['device']}, jax {about['jax']}, {about['options']}\n")
    for row in [header, ["---"] * len(header), *rows]:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        table = [dict(zip(header, row, strict=True)) for row in rows]
        text = json.dumps(about | {"table": table} | more, indent=2)
        (options.out / f"{name}.json").write_text(text + "\n")
