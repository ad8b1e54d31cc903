"""The program XLA makes of a training step for hardware that is not there: a chip's share of it.

python -m benchmarks.plan --target=h100 --image_px=512 --batch_size=32 --dtype=bfloat16

Compiling for a device needs its compiler alone: `pip install "jax[cuda12]"` for an H100, or for
several in one host (h100:8), and `pip install "jax[tpu]"` for slices of a TPU v5e (v5e:4x4). The
batch is that of all chips together. Nothing is timed here. Planned memory is without the workspace
of cuDNN's convolutions, as those are chosen on the device. Traffic is what the kernels read and
write; divided by the device's bandwidth it is the minimum time of the program. `target` says what
the modelled time adds. The loop over pairs counts once, as it depends on the labels.
"""

import contextlib
import os
from typing import Any

from benchmarks import choices, harness, target
from benchmarks.program import Program
from oass_jax.errors import UserError, nearest

CONFIGS = ("max", "supervised", "puzzlecam", "cmax", "max_csi")
PRECISIONS = {"bf16": "bfloat16", "tf32": "TF32", "f32": "float32"}
TOGETHER = " + "  # between choices


def lower_step(config: Any, mesh: Any) -> Any:
    """The training step of a config as JAX hands it to XLA.

    Args:
      config: every field.
      mesh: one axis, `data`; of devices that may be only described.

    Raises:
      UserError: the devices cannot share the batch evenly.
    """
    import jax

    from oass_jax.run import build

    build.require_even(mesh, "batch_size", config.batch_size, num_parts=config.num_microbatches)
    _, create_state, train_fn = harness.create_step(config, mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (config.batch_size, *x.shape[1:]), x.dtype, sharding=build.batch_sharding(mesh)
        ),
        harness.random_batch(1, config.augment.image_px),
    )
    return train_fn.lower(build.abstract(create_state, mesh), batch)


def cells(compiled: Any, chip: target.Chip, num_chips: int) -> dict[str, str]:
    """What is reported of a compiled step: column -> text.

    Args:
      compiled: for chips of one kind.
      chip: these.
      num_chips: of them.
    """
    program = Program(compiled.as_text(), float32=chip.float32)
    flops, collectives = program.flops, program.collectives
    carried = sum(sum(each) for each in collectives.values())
    kinds = ", ".join(f"{len(each)} {kind}" for kind, each in sorted(collectives.items()))
    return {
        "memory, GB": f"{harness.peak_bytes(compiled) / 1e9:.2f}",
        "traffic, GB": f"{program.traffic / 1e9:.1f}",
        "min, ms": f"{1e3 * program.traffic / chip.bandwidth:.1f}",
        "kernels": str(len(program.kernels)),
        "largest float32, MB": f"{program.widened / 1e6:.0f}",
        **{f"{PRECISIONS[name]}, TFLOP": f"{flops[name] / 1e12:.3f}" for name in chip.flops},
        "collectives": kinds or "none",
        "carried, MB": f"{carried / 1e6:.2f}",
        "modelled, ms": f"{1e3 * target.seconds(program, chip, num_chips):.1f}",
    }


def _require_choices(names: list[str]) -> None:
    """Refuses what is no choice, nor several together, before anything is compiled.

    Raises:
      UserError: names the nearest.
    """
    known = choices.CHOICES | choices.FIELDS
    for each in names:
        for name in each.split(TOGETHER):
            if name not in known:
                raise UserError(f"--choices: there is no {name!r}, {nearest(name, known)}")


def main() -> None:
    """Compiles the configs; and the first of them with other choices."""
    parser = harness.parser(__doc__)
    parser.set_defaults(image_px=512, batch_size=32, dtype="bfloat16")
    parser.add_argument("--target", default="h100", help="h100, h100:8, v5e:2x2, v5e:16x16, ...")
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    parser.add_argument(
        "--choices",
        nargs="*",
        default=(*choices.CHOICES, *choices.FIELDS),
        help=f"none after the flag for none, {TOGETHER!r} between those to make together",
    )
    options = parser.parse_args()
    _require_choices(options.choices)
    chip = target.CHIPS[target.parse(options.target)[0]]
    # No device is needed, and in the log there would be nothing but warnings that there is none.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    mesh = target.mesh_of(options.target)
    table = []

    def compile_case(case: str, name: str, **fields: Any) -> None:
        compiled = lower_step(harness.config_of(name, options, **fields), mesh).compile()
        table.append({"step": case, **cells(compiled, chip, mesh.size)})
        print(case, "compiled", flush=True)

    for name in options.configs:
        compile_case(name, name)
    first = options.configs[0]
    for choice in options.choices:
        fields = {}
        with contextlib.ExitStack() as stack:
            for part in choice.split(TOGETHER):
                fields |= choices.FIELDS.get(part, {})
                if part in choices.CHOICES:
                    stack.enter_context(choices.CHOICES[part]())
            compile_case(f"{first}, {choice}", first, **fields)
    rows = [list(row.values()) for row in table]
    harness.report("plan", options, list(table[0]), rows)


if __name__ == "__main__":
    harness.run(main)
