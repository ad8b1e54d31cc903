import pytest
from jax.experimental import topologies

from benchmarks import plan
from oass_jax.errors import UserError

PROGRAM = """HloModule made_up

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%p)
}

ENTRY %main (x: bf16[4,8], w: f32[8,2]) -> f32[4,2] {
  %x = bf16[4,8]{1,0} parameter(0)
  %w = f32[8,2]{1,0} parameter(1)
  %flat = bf16[32]{0} bitcast(%x)
  %wide = (f32[4,8]{1,0}, pred[4]{0}) fusion(%flat), kind=kLoop, calls=%fused
  %first = f32[4,8]{1,0} get-tuple-element(%wide), index=0
  ROOT %dot = f32[4,2]{1,0} custom-call(%first, %w), custom_call_target="__cublas$gemm"
}
"""


def test_a_program_is_read_by_hand():
    program = plan.read_program(PROGRAM)
    assert program.kernels == 2
    fusion = 32 * 2 + 32 * 4 + 4
    product = 32 * 4 + 16 * 4 + 8 * 4
    assert program.traffic == fusion + product
    assert program.widened == 32 * 4


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    def missing(**kwargs):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r"pip install .jax\[cuda12\]"):
        plan.h100_mesh()
