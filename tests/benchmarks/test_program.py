"""What a compiled program moves, on programs small enough to count by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import program
from tests.support.small_program import IMAGE, TEXT


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
