"""The program XLA makes of a training step for an H100, without one: memory, traffic, kernels.

python -m benchmarks.plan --image_px=512 --batch_size=32 --dtype=bfloat16

Compiling for a GPU needs its compiler, not the device: `pip install "jax[cuda12]"` (or 13) is
enough. Nothing is timed here. Planned memory is without the workspace of cuDNN's convolutions, as
those are chosen on the device. Traffic is what the kernels read and write; of a loop, such as that
over pairs, it counts the loop's inputs and outputs alone. Divided by the device's bandwidth it is
the minimum time of the program.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import choices, harness
from oass_jax.errors import UserError

CONFIGS = ("max", "supervised", "puzzlecam", "cmax", "max_csi")
BANDWIDTH = 3.0e12  # bytes a second, that an H100 reaches

# Instructions of a GPU program that run nothing.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}
_ITEMSIZE = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8}  # else 4
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.-]+) = (.*?) ([a-z][a-z-]*)\((.*)")


class Program(NamedTuple):
    """What a compiled step does.

    Attributes:
      kernels: instructions that run something.
      traffic: bytes they read and write.
      widened: bytes of the largest float32 array a kernel writes.
    """

    kernels: int
    traffic: int
    widened: int


def read_program(text: str) -> Program:
    """Reads the entry computation of a compiled program.

    Args:
      text: as XLA prints it.
    """
    types: dict[str, str] = {}
    kernels = traffic = widened = 0
    for line in text[text.index("\nENTRY") :].splitlines():
        if not (match := _INSTRUCTION.match(line)):
            continue
        name, types[match[1]], operation, rest = match[1], match[2], match[3], match[4]
        if operation in _FREE:
            continue
        operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
        sizes = [_bytes(types[operand]) for operand in operands if operand in types]
        kernels += 1
        traffic += _bytes(types[name]) + sum(sizes)
        written = _ARRAY.findall(types[name])
        widened = max([widened, *(_array_bytes(*a) for a in written if a[0] == "f32")])
    return Program(kernels, traffic, widened)


def _bytes(types: str) -> int:
    return sum(_array_bytes(*array) for array in _ARRAY.findall(types))


def _array_bytes(dtype: str, shape: str) -> int:
    size = _ITEMSIZE.get(dtype, 4)
    for length in shape.split(",") if shape else ():
        size *= int(length)
    return size


def h100_mesh() -> Any:
    """A mesh of one H100 that is only described.

    Raises:
      UserError: JAX cannot compile for NVIDIA here.
    """
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh

    target = (Path(__file__).parent / "h100.txtpb").read_text()
    try:
        topology = topologies.get_topology_desc(
            topology_name="", platform="cuda", topology="1x1x1", target_config=target
        )
    except (NotImplementedError, RuntimeError) as error:
        raise UserError(
            'JAX cannot compile for NVIDIA here: pip install "jax[cuda12]", no GPU is needed'
        ) from error
    return Mesh(np.array(topology.devices), ("data",))


def lower_step(config: Any, mesh: Any) -> Any:
    """The training step of a config as JAX hands it to XLA."""
    import jax

    from oass_jax.run import build

    _, create_state, train_fn = harness.create_step(config, mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=build.batch_sharding(mesh)),
        harness.random_batch(config.batch_size, config.augment.image_px),
    )
    return train_fn.lower(build.abstract(create_state, mesh), batch)


def main() -> None:
    """Compiles the configs; and the first of them with every other choice."""
    parser = harness.parser(__doc__)
    parser.set_defaults(image_px=512, batch_size=32, dtype="bfloat16")
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    options = parser.parse_args()
    # In the log there would be nothing but warnings that there is no GPU.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    mesh = h100_mesh()
    rows = []

    def compile_case(case: str, name: str, **fields: Any) -> None:
        compiled = lower_step(harness.config_of(name, options, **fields), mesh).compile()
        program, peak = read_program(compiled.as_text()), harness.peak_bytes(compiled)
        gigabytes = [f"{peak / 1e9:.2f}", f"{program.traffic / 1e9:.1f}"]
        min_ms = f"{1e3 * program.traffic / BANDWIDTH:.1f}"
        rows.append([case, *gigabytes, min_ms, program.kernels, f"{program.widened / 1e6:.0f}"])
        print(case, "compiled", flush=True)

    for name in options.configs:
        compile_case(name, name)
    first = options.configs[0]
    for choice, change in choices.CHOICES.items():
        with change():
            compile_case(f"{first}, {choice}", first)
    for choice, fields in choices.FIELDS.items():
        compile_case(f"{first}, {choice}", first, **fields)
    header = ["step", "memory, GB", "traffic, GB", "min, ms", "kernels", "largest float32, MB"]
    harness.report("plan", options, header, rows)


if __name__ == "__main__":
    harness.run(main)
