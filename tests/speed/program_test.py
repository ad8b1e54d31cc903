import pytest

from benchmarks.program import Program

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
  ROOT %dot = f32[4,2]{1,0} custom-call(%first, %w), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
}
"""

CONVOLUTIONS = """HloModule convolutions

%product (a: f32[2,3]) -> f32[2,5] {
  %a = f32[2,3]{1,0} parameter(0)
  %b = f32[3,5]{1,0} constant({...})
  ROOT %d = f32[2,5]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}HOW
}

ENTRY %main (x: bf16[2,8,8,3], k: bf16[3,3,3,4], y: bf16[2,4,4,4]) -> bf16[2,8,8,3] {
  %x = bf16[2,8,8,3]{3,2,1,0} parameter(0)
  %k = bf16[3,3,3,4]{3,2,1,0} parameter(1)
  %y = bf16[2,4,4,4]{3,2,1,0} parameter(2)
  %forward = bf16[2,4,4,4]{3,2,1,0} convolution(%x, %k), window={size=3x3 stride=2x2 pad=1_1x1_1}, \
dim_labels=b01f_01io->b01f
  %images = bf16[2,8,8,3]{3,2,1,0} convolution(%y, %k), window={size=3x3 pad=1_2x1_2 \
lhs_dilate=2x2 rhs_reversal=1x1}, dim_labels=b01f_01oi->b01f
  %cudnn = (bf16[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%y, %k), window={size=3x3 stride=2x2 \
pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convBackwardInput"
  %kernel = (bf16[3,3,3,4]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=3x3 stride=2x2 \
pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convBackwardFilter"
  ROOT %small = f32[2,5]{1,0} fusion(%x), kind=kOutput, calls=%product
}
"""

COLLECTIVES = """HloModule several

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%inside (p: f32[6]) -> f32[3] {
  %p = f32[6]{0} parameter(0)
  %all = f32[6]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%sum
  ROOT %part = f32[3]{0} slice(%all), slice={[0:3]}
}

%body (c: (f32[4], s32[])) -> (f32[4], s32[]) {
  %c = (f32[4]{0}, s32[]) parameter(0)
  %v = f32[4]{0} get-tuple-element(%c), index=0
  %i = s32[] get-tuple-element(%c), index=1
  %r = f32[4]{0} all-reduce(%v), replica_groups={{0,1}}, to_apply=%sum
  ROOT %n = (f32[4]{0}, s32[]) tuple(%r, %i)
}

%condition (c: (f32[4], s32[])) -> pred[] {
  %c.1 = (f32[4]{0}, s32[]) parameter(0)
  ROOT %t = pred[] constant(true)
}

ENTRY %main (x: f32[6], y: bf16[10]) -> f32[12] {
  %x = f32[6]{0} parameter(0)
  %y = bf16[10]{0} parameter(1)
  %several = (f32[6]{0}, bf16[10]{0}) all-reduce-start(%x, %y), to_apply=%sum
  %summed = (f32[6]{0}, bf16[10]{0}) all-reduce-done(%several)
  %whole = (f32[6]{0}, f32[12]{0}) all-gather-start(%x), dimensions={0}
  %ring = f32[6]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  %fused = f32[3]{0} fusion(%x), kind=kCustom, calls=%inside
  %loop = (f32[4]{0}, s32[]) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %gathered = f32[12]{0} all-gather-done(%whole)
}
"""

TILES = """HloModule tiles

ENTRY %main (x: bf16[16,20,10]) -> bf16[16,20,10] {
  %x = bf16[16,20,10]{1,0,2:T(8,128)(2,1)} parameter(0)
  %near = (bf16[16,20,10]{1,0,2:T(8,128)(2,1)S(1)}, bf16[16,20,10]{1,0,2:T(8,128)(2,1)}, \
u32[]{:S(2)}) copy-start(%x)
  %here = bf16[16,20,10]{1,0,2:T(8,128)(2,1)S(1)} copy-done(%near)
  %part = ((bf16[16,20,10]{1,0,2:T(8,128)(2,1)}), bf16[8,20,10]{1,0,2:T(8,128)(2,1)S(1)}, \
s32[]{:S(2)}) slice-start(%x), slice={[0:8], [0:20], [0:10]}
  %small = f32[3,4]{1,0:T(8,128)S(1)} constant({...})
  %sum = f32[3,4]{1,0:T(8,128)S(1)} all-reduce(%small), to_apply=%none
  ROOT %y = f32[3]{0:T(128)} fusion(%here), kind=kLoop, calls=%none
}

%none (p: bf16[16,20,10]) -> f32[3] {
  ROOT %p = f32[3]{0} parameter(0)
}
"""


def test_kernels_and_their_traffic_by_hand():
    program = Program(PROGRAM)
    assert len(program.kernels) == 2
    fusion = 32 * 2 + 32 * 4 + 4
    product = 32 * 4 + 16 * 4 + 8 * 4
    assert program.traffic == fusion + product
    assert program.widened == 32 * 4
    assert program.flops == {"f32": 2 * 4 * 8 * 2}


def test_products_are_counted_without_padding_and_dilation():
    # An axis of 8 with 4 results of 3 taps and stride 2: the first tap is once in the padding.
    taps = 4 * 3 - 1
    macs = 2 * 3 * 4 * taps**2
    small = 2 * 2 * 3 * 5
    assert Program(CONVOLUTIONS).flops == {"bf16": 2 * 4 * macs, "f32": small}


def test_a_product_may_be_a_convolution_without_a_window():
    text = """HloModule product

ENTRY %main (x: bf16[4,8], w: bf16[8,2]) -> bf16[4,2] {
  %x = bf16[4,8]{1,0} parameter(0)
  %w = bf16[8,2]{1,0} parameter(1)
  ROOT %y = bf16[4,2]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
}
"""
    assert Program(text).flops == {"bf16": 2 * 4 * 8 * 2}


@pytest.mark.parametrize(
    ("how", "name", "times"),
    [
        ("", "tf32", 1),
        (", operand_precision={highest,highest}", "f32", 1),
        (", algorithm=dot_tf32_tf32_f32_x3", "tf32", 3),
        (", algorithm=dot_bf16_bf16_f32_x6", "bf16", 6),
    ],
)
def test_products_of_float32_have_a_precision(how, name, times):
    program = Program(CONVOLUTIONS.replace("HOW", how), float32="tf32")
    assert program.kernels[-1].flops == {name: times * 2 * 2 * 3 * 5}


def test_collectives_by_hand():
    found = Program(COLLECTIVES).collectives
    assert found == {
        "all-reduce": [6 * 4 + 10 * 2, 6 * 4, 4 * 4, 4 * 4, 4 * 4],  # in a fusion, thrice in a loop
        "all-gather": [12 * 4],
        "collective-permute": [6 * 4],
    }


def test_traffic_of_a_tpu_is_that_of_padded_tiles_in_its_memory():
    program = Program(TILES)
    whole = 10 * 16 * 128 * 2
    assert [kernel.traffic for kernel in program.kernels] == [whole, whole // 2, 0, 128 * 4]
    assert program.collectives == {"all-reduce": [3 * 4 * 4]}
