"""What a compiled program moves, on programs small enough to count by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import program

TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,16]{1,0})->f32[8,16]{1,0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused_bias (p: f32[4]) -> bf16[8,16,4] {
  %p = f32[4]{0} parameter(0)
  %c = bf16[4]{0} convert(%p)
  ROOT %b = bf16[8,16,4]{2,1,0} broadcast(%c), dimensions={2}
}

%fused_half (p: bf16[8,16,4], q: bf16[8,16,4]) -> bf16[4,16,4] {
  %p = bf16[8,16,4]{2,1,0} parameter(0)
  %q = bf16[8,16,4]{2,1,0} parameter(1)
  %same = bf16[8,64]{1,0} bitcast(%p)
  %s = bf16[4,64]{1,0} slice(%same), slice={[0:4], [0:64]}
  %t = bf16[4,16,4]{2,1,0} bitcast(%s)
  %u = bf16[4,16,4]{2,1,0} slice(%q), slice={[4:8], [0:16], [0:4]}
  ROOT %m = bf16[4,16,4]{2,1,0} add(%t, %u)
}

%fused_turn (p: bf16[8,16,4]) -> bf16[4,8,16] {
  %p = bf16[8,16,4]{2,1,0} parameter(0)
  ROOT %t = bf16[4,8,16]{2,1,0} transpose(%p), dimensions={2,0,1}
}

%fused_still (p: bf16[8,16,4]) -> bf16[4,8,16] {
  %p = bf16[8,16,4]{2,1,0} parameter(0)
  %t = bf16[4,8,16]{0,2,1} transpose(%p), dimensions={2,0,1}
  ROOT %n = bf16[4,8,16]{0,2,1} negate(%t)
}

%fused_sums (p: bf16[8,16,4]) -> (bf16[8,16,4], f32[4]) {
  %p = bf16[8,16,4]{2,1,0} parameter(0)
  %n = bf16[8,16,4]{2,1,0} negate(%p)
  %w = f32[8,16,4]{2,1,0} convert(%n)
  %zero = f32[] constant(0)
  %r = f32[4]{0} reduce(%w, %zero), dimensions={0,1}, to_apply=%add
  ROOT %both = (bf16[8,16,4]{2,1,0}, /*index=1*/f32[4]{0}) tuple(%n, %r)
}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %v = f32[4]{0} get-tuple-element(%state), index=1
  %next = f32[4]{0} negate(%v)
  ROOT %out = (s32[], f32[4]{0}) tuple(%i, %next)
}

%condition (state: (s32[], f32[4])) -> pred[] {
  %state = (s32[], f32[4]{0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (a: f32[4], x: bf16[8,16,4], k: bf16[3,3,4,4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %x = bf16[8,16,4]{2,1,0} parameter(1)
  %k = bf16[3,3,4,4]{3,2,1,0} parameter(2)
  %bias = bf16[8,16,4]{2,1,0} fusion(%a), kind=kLoop, calls=%fused_bias
  %conv = (bf16[8,16,4]{2,1,0}, u8[4096]{0}) custom-call(%x, %k, %bias), window={size=3x3 pad=1_1x1_1}, custom_call_target="__cudnn$convBiasActivationForward", metadata={op_name="jit(step)/conv"}
  %y = bf16[8,16,4]{2,1,0} get-tuple-element(%conv), index=0
  %half = bf16[4,16,4]{2,1,0} fusion(%y, %x), kind=kLoop, calls=%fused_half
  %turned = bf16[4,8,16]{2,1,0} fusion(%y), kind=kInput, calls=%fused_turn
  %still = bf16[4,8,16]{0,2,1} fusion(%y), kind=kLoop, calls=%fused_still
  %sums = (bf16[8,16,4]{2,1,0}, f32[4]{0}) fusion(%y), kind=kInput, calls=%fused_sums, metadata={op_name="jit(step)/sum"}
  %total = f32[4]{0} get-tuple-element(%sums), index=1
  %zero = s32[] constant(0)
  %start = (s32[], f32[4]{0}) tuple(%zero, %total)
  %loop = (s32[], f32[4]{0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %result = f32[4]{0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501

IMAGE = 8 * 16 * 4 * 2  # bytes of bf16[8,16,4]


@pytest.fixture
def found():
    kernels = program.kernels(program.parse(TEXT))
    return {kernel.name: kernel for kernel in kernels}


def test_only_what_runs_is_a_kernel(found):
    assert list(found) == [
        "bias",
        "conv",
        "half",
        "turned",
        "still",
        "sums",
        "next",
    ]


def test_bytes_of_each(found):
    moved = {name: (kernel.read, kernel.written) for name, kernel in found.items()}
    assert moved == {
        "bias": (16, IMAGE),
        "conv": (2 * IMAGE + 9 * 16 * 2, IMAGE),  # its workspace is not counted
        "half": (IMAGE / 2 + IMAGE / 2, IMAGE / 2),  # a slice of each
        "turned": (IMAGE, IMAGE),
        "still": (IMAGE, IMAGE),
        "sums": (IMAGE, IMAGE + 16),
        "next": (16, 16),
    }
    assert found["next"].launches == 5  # in the loop
    assert found["conv"].largest == IMAGE


def test_kinds_and_sources(found):
    assert {name: kernel.kind for name, kernel in found.items()} == {
        "bias": "elementwise",
        "conv": "convolution",
        "half": "elementwise",
        "turned": "transposition",
        "still": "elementwise",  # the same order in memory
        "sums": "reduction",
        "next": "elementwise",
    }
    assert found["conv"].source == "jit(step)/conv"


def test_sums_and_what_should_not_be_there(found):
    kernels = list(found.values())
    total = program.summarize(kernels, IMAGE)
    assert total["kernels"] == 6 + 5
    expected = sum((k.read + k.written) * k.launches for k in kernels)
    assert total["bytes"] == expected == total["passes"] * IMAGE
    assert total["largest_bytes"] == IMAGE
    assert total["broadcasts"] == total["transpositions"] == 1
    assert total["kinds"]["convolution"] == {"kernels": 1, "bytes": 3 * IMAGE + 288}
    # An image of nothing is one only if it is large.
    assert program.summarize(kernels, 100 * IMAGE)["broadcasts"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f32[2,3]{1,0}", 24),
        ("bf16[3,8,8,16]{3,2,1,0:T(8,128)}", 6144),
        ("pred[7]{0}", 7),
        ("s4[3]{0}", 2),
        ("f32[]", 4),
        ("token[]", 0),
        ("f8e4m3fn[5]{0}", 5),
    ],
)
def test_bytes_of_arrays(text, expected):
    (array,) = program._arrays(text)
    assert array.nbytes == expected


def test_reads_what_this_version_of_jax_writes():
    @jax.jit
    def function(x, y):
        return jnp.tanh(x @ y).sum(0), jax.lax.fori_loop(0, 3, lambda i, z: z * 2, x)

    x = jnp.ones((64, 64))
    text = function.lower(x, x).compile().as_text()
    kernels = program.kernels(program.parse(text))
    assert sum(kernel.read for kernel in kernels) >= 2 * x.nbytes
    assert max(kernel.largest for kernel in kernels) >= x.nbytes


def test_a_text_that_is_no_program():
    with pytest.raises(ValueError, match="found no ENTRY"):
        program.parse("nothing here")
