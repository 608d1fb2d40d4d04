"""Runs the programs of `ctjax.models.kernels.gpu_programs` as Triton interprets them.

    TRITON_INTERPRET=1 python -m tests.support.interpreted_programs < CASES > RESULTS

Needs no GPU, but a process of its own: Triton asks for the variable when it is
imported. CASES and RESULTS are JSON; `run` says what is in them.
"""

import json
import os
import sys

import torch

from ctjax.models.kernels import gpu_programs

ROWS, PAIRS = 4, 16  # a program's, so that images of a few pixels have several


def main() -> None:
    """Answers every case."""
    assert os.environ["TRITON_INTERPRET"] == "1"
    json.dump([run(**case) for case in json.load(sys.stdin)], sys.stdout)


def run(program: str, x, other, outputs: int, options: dict, arrays: dict) -> list:
    """Runs one program on nested lists.

    Args:
      program: its name.
      x: [N, H, W, C].
      other: matrices of the kernel, or the gradient.
      outputs: F.
      options: of the program, beside sizes.
      arrays: bias, residual and mask of a convolution, null for none.

    Returns:
      What it has written, NaN where it has not.
    """
    x, other = torch.tensor(x), torch.tensor(other)
    n, height, width, features = x.shape
    grid = -(-width // (2 * PAIRS)), -(-height // ROWS), n
    sizes = {"H": height, "W": width, "C": features, "F": outputs, "M": PAIRS}
    sizes |= {"ROWS": ROWS, "STAGES": 1}
    if program == "fused_convolution":
        given = [
            other if array is None else torch.tensor(array)
            for array in (arrays[name] for name in ("bias", "residual", "mask"))
        ]
        written = torch.full((n, height, width, outputs), torch.nan)
    else:
        given = []
        numbers = 24 * features * outputs + 2 * outputs
        written = torch.full((n, grid[1], grid[0], numbers), torch.nan)
    getattr(gpu_programs, program)[grid](x, other, *given, written, **sizes, **options)
    return written.tolist()


if __name__ == "__main__":
    main()
