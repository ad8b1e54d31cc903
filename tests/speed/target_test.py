import pytest
from jax.experimental import topologies

from benchmarks import plan, target
from benchmarks.program import Kernel
from tests.commands import call_benchmark

CHIP = target.Chip(
    bandwidth=100.0,
    flops={"bf16": 1000.0, "f32": 10.0},
    float32="bf16",
    kernel_s=1.0,
    link=10.0,
    collective_s=5.0,
    package="nothing",
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h100", ("h100", "1")),
        ("h100:8", ("h100", "8")),
        ("v5e:2x2", ("v5e", "2x2")),
        ("v5e:16x16", ("v5e", "16x16")),
    ],
)
def test_a_target_is_a_chip_and_how_many(name, expected):
    assert target.parse(name) == expected


@pytest.mark.parametrize("name", ["", "h200", "h100:0", "h100:16", "h100:2x2", "v5e", "v5e:3x3"])
def test_another_target_is_one_line_that_names_what_there_is(name):
    done = call_benchmark(plan, f"--target={name}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --target={name}: there are h100, h100:2")
    assert "v5e:2x2" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "package"),
    [("h100", "jax[cuda12]"), ("h100:8", "jax[cuda12]"), ("v5e:4x4", "jax[tpu]")],
)
def test_without_the_compiler_it_says_what_to_install(name, package, monkeypatch):
    def missing(**kwargs):
        raise NotImplementedError("topology not implemented")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    done = call_benchmark(plan, f"--target={name}")
    assert done.returncode == 2
    assert f'pip install "{package}"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_chips_have_a_rate_for_every_product():
    for chip in target.CHIPS.values():
        assert chip.float32 in chip.flops
        assert set(chip.flops) <= set(plan.PRECISIONS)


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (Kernel(traffic=300, flops={"bf16": 2000}), 1 + 3),
        (Kernel(traffic=300, flops={"bf16": 2000, "f32": 30}), 1 + 5),
        (Kernel(traffic=0, flops={}, collective="all-reduce", carried=40), 5 + 2 * 3 / 4 * 4),
        (Kernel(traffic=0, flops={}, collective="all-gather", carried=40), 5 + 3 / 4 * 4),
        (Kernel(traffic=0, flops={}, collective="collective-permute", carried=40), 5 + 4),
    ],
)
def test_the_model_by_hand(kernel, expected):
    class Program:
        kernels = (kernel, kernel)

    assert target.seconds(Program, CHIP, 4) == pytest.approx(2 * expected)


def test_a_choice_that_there_is_not_is_reported_before_anything_is_compiled():
    both = "1x1 as convolution + max-pool"
    done = call_benchmark(plan, "--choices", "remat", both)
    assert done.returncode == 2
    assert "no 'max-pool', did you mean max-pool" in done.stderr
