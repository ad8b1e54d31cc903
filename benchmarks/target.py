"""The hardware that `benchmarks.plan` compiles for, only described, and a model of its time.

A kernel takes the longer of two times, that of its products and that of its traffic, and what it
takes to begin. A collective takes what it takes to begin and to carry its bytes around a ring, and
nothing runs beside it. So a step takes longer than modelled where kernels do not reach these rates,
and less where collectives run beside products.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.program import Kernel, Program
from oass_jax.errors import UserError


class Chip(NamedTuple):
    """What the model knows of one chip.

    Attributes:
      bandwidth: bytes a second between the chip and its memory.
      flops: name of a precision -> floating point operations a second of products.
      float32: name of the precision that products of float32 have if none is asked for.
      kernel_s: seconds that a kernel takes beyond its work.
      link: bytes a second that a chip sends to its neighbour.
      collective_s: seconds that a collective takes beyond its bytes.
      package: what brings the compiler.
    """

    bandwidth: float
    flops: dict[str, float]
    float32: str
    kernel_s: float
    link: float
    collective_s: float
    package: str


# Rates are those of the data sheets times the share that is reached of them: 0.9 of the bandwidth
# and, of products, two thirds (TF32 and bfloat16) or three quarters (float32 outside tensor cores),
# of which nothing was measured here.
CHIPS = {
    # NVIDIA's data sheet of the H100 SXM: 3.35 TB/s; 989, 494 and 67 TFLOP/s; NVLink 450 GB/s each
    # way. Assumed: 2 us a kernel, 20 us a collective.
    "h100": Chip(
        bandwidth=3.0e12,
        flops={"bf16": 650e12, "tf32": 325e12, "f32": 50e12},
        float32="tf32",
        kernel_s=2e-6,
        link=400e9,
        collective_s=20e-6,
        package="jax[cuda12]",
    ),
    # Google Cloud's page of the TPU v5e: 819 GB/s, 197 TFLOP/s, 1,600 Gbit/s over four links, of
    # which a ring uses one each way. Six products of bfloat16 make one of float32. Assumed: 0.5 us
    # a kernel, 10 us a collective.
    "v5e": Chip(
        bandwidth=0.74e12,
        flops={"bf16": 130e12, "f32": 130e12 / 6},
        float32="bf16",
        kernel_s=0.5e-6,
        link=90e9,
        collective_s=10e-6,
        package="jax[tpu]",
    ),
}
_TARGET = re.compile(r"(h100)(?::([1-8]))?|(v5e):((?:2|4|8|16)x(?:2|4|8|16))")
_KNOWN = "h100, h100:2 to h100:8, and v5e:2x2, v5e:2x4, v5e:4x4 and so on to v5e:16x16"


def parse(target: str) -> tuple[str, str]:
    """Splits the name of a target into its chip, as in `CHIPS`, and how many there are.

    Args:
      target: such as `h100`, `h100:8` or `v5e:4x4`.

    Raises:
      UserError: there is no such target.
    """
    match = _TARGET.fullmatch(target)
    if not match:
        raise UserError(f"--target={target}: there are {_KNOWN}")
    return match[1] or match[3], match[2] or match[4] or "1"


def mesh_of(target: str) -> Any:
    """A mesh of chips that are only described; one axis, `data`.

    Args:
      target: as for `parse`.

    Raises:
      UserError: there is no such target, or JAX cannot compile for it here.
    """
    chip, count = parse(target)
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh

    # Else libtpu asks the network what it runs on, and refuses a second process.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options: dict[str, Any] = {"topology_name": target, "platform": "tpu"}
    if chip == "h100":
        description = (Path(__file__).parent / "h100.txtpb").read_text()
        options = {"topology_name": "", "platform": "cuda", "target_config": description}
        options["topology"] = f"1x1x{count}"  # one host of one slice
    try:
        topology = topologies.get_topology_desc(**options)
    except (ImportError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f'JAX cannot compile for {chip} here: pip install "{CHIPS[chip].package}", which needs '
            f"no such device ({error})"
        ) from error
    return Mesh(np.array(topology.devices), ("data",))


def seconds(program: Program, chip: Chip, num_chips: int) -> float:
    """What the model says that a program takes.

    Args:
      program: of one chip.
      chip: of these.
      num_chips: that take part in its collectives.
    """
    return sum(_kernel_seconds(kernel, chip, num_chips) for kernel in program.kernels)


def _kernel_seconds(kernel: Kernel, chip: Chip, num_chips: int) -> float:
    if kernel.collective:
        # Around a ring each byte passes every chip but one, when summed once to add and once to
        # tell the sum.
        passes = {"all-reduce": 2, "collective-permute": num_chips / (num_chips - 1)}
        times = passes.get(kernel.collective, 1) * (num_chips - 1) / num_chips
        return chip.collective_s + times * kernel.carried / chip.link
    products = sum(number / chip.flops[name] for name, number in kernel.flops.items())
    return chip.kernel_s + max(products, kernel.traffic / chip.bandwidth)
