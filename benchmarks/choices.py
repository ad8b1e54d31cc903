"""What the training step could do otherwise, each alone against the step as it is.

python -m benchmarks.choices --image_px=128 --batch_size=8

The step does what won where it could be measured, or by XLA's plan where it could not: the forms of
1x1 convolutions and of the max-pool are those of the platform, so one of the two is the step as it
is. A ratio below 1 shows that another wins on this device. `python -m benchmarks.plan` compiles the
same alternatives for hardware that is not there.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from benchmarks import harness


@contextlib.contextmanager
def everywhere(form: str, other: str) -> Iterator[None]:
    """One form of an operation on every platform.

    Args:
      form: name of a function of `oass_jax.model.resnet`.
      other: of the one that computes the same on other platforms.
    """
    from oass_jax.model import resnet

    with mock.patch.object(resnet, other, getattr(resnet, form)):
        yield


@contextlib.contextmanager
def teacher_folded() -> Iterator[None]:
    """The teacher's normalisation folded into its convolutions, which leaves a bias to add."""
    import flax.linen as nn

    from oass_jax.model import resnet
    from oass_jax.model.network import Network

    class Bias(nn.Module):
        dtype: Any
        use_running_average: bool

        @nn.compact
        def __call__(self, x: Any) -> Any:
            bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
            return x + bias.astype(self.dtype)

    apply = Network.apply

    def folded(self: Network, variables: dict, *args: Any, **options: Any) -> Any:
        if options.get("train", True):
            return apply(self, variables, *args, **options)
        encoder = fold(variables["params"]["encoder"], variables["batch_stats"]["encoder"])
        with mock.patch.object(resnet, "BatchNorm", Bias):
            return apply(self, {"params": {"encoder": encoder}}, *args, **options)

    with mock.patch.object(Network, "apply", folded):
        yield


def fold(params: dict, batch_stats: dict) -> dict:
    """Kernels times the scale of the normalisation that follows them, and the bias that remains.

    Args:
      params: of an encoder, or of a block.
      batch_stats: its running statistics.

    Returns:
      Parameters in which a normalisation has nothing but a `bias`.
    """
    import jax

    result = {name: dict(tree) for name, tree in params.items()}
    for name, stats in batch_stats.items():
        if "mean" not in stats:
            result[name] = fold(params[name], stats)
            continue
        norm = params[name]
        scale = norm["scale"] * jax.lax.rsqrt(stats["var"] + 1e-5)
        convolution = name.replace("bn", "conv")
        result[convolution] = {"kernel": params[convolution]["kernel"] * scale}
        result[name] = {"bias": norm["bias"] - stats["mean"] * scale}
    return result


@contextlib.contextmanager
def geometry_with(**options: Any) -> Iterator[None]:
    """Resampling with other options; precision None is TF32 or bfloat16 on a GPU or TPU."""
    from oass_jax.image import geometry

    resample_axis = geometry.resample_axis

    def changed(*args: Any, **given: Any) -> Any:
        return resample_axis(*args, **given | options)

    with mock.patch.object(geometry, "resample_axis", changed):
        yield


# What the config can ask for, at a price.
FIELDS: dict[str, dict[str, Any]] = {
    "remat": {"model.remat": True},
    "2 microbatches": {"num_microbatches": 2},
}
# Name -> what changes the step while it is compiled.
CHOICES: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "1x1 as product": functools.partial(
        everywhere, "pointwise_by_product", other="pointwise_by_convolution"
    ),
    "1x1 as convolution": functools.partial(
        everywhere, "pointwise_by_convolution", other="pointwise_by_product"
    ),
    "max-pool by selects": functools.partial(everywhere, "pool_by_selects", other="pool_by_window"),
    "max-pool of the library": functools.partial(
        everywhere, "pool_by_window", other="pool_by_selects"
    ),
    "teacher folded": teacher_folded,
    "geometry in default precision": functools.partial(geometry_with, precision=None),
    "geometry in highest precision": functools.partial(geometry_with, precision="highest"),
}


def main() -> None:
    """Times the step of a config as it is and with every other choice."""
    parser = harness.parser(__doc__)
    parser.add_argument("--config", default="max")
    options = parser.parse_args()
    steps = {"as it is": harness.Step(options.config, options)}
    for name, change in CHOICES.items():
        with change():
            steps[name] = harness.Step(options.config, options)
    for name, fields in FIELDS.items():
        steps[name] = harness.Step(options.config, options, **fields)
    times = harness.in_turns({name: step.run for name, step in steps.items()}, options.repeats)
    rows = []
    for name, seconds in times.items():
        ratio = harness.spread(seconds / times["as it is"])
        memory = f"{steps[name].peak_bytes / 1e9:.2f}"
        rows.append([name, harness.spread(seconds), ratio, memory])
    seconds = {name: values.tolist() for name, values in times.items()}
    header = ["step", "step, s", "step / as it is", "memory, GB"]
    harness.report("choices", options, header, rows, seconds=seconds)


if __name__ == "__main__":
    harness.run(main)
