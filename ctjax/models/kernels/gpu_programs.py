"""Holds the programs of `ctjax.models.kernels.gpu`, in Triton.

A program works on a strip of an image, row after row. Two neighbouring columns of the
result are computed as one row of a matrix product, [M, 4 C] x [4 C, 2 F]: the four
columns of the image that a kernel of three reaches from there are one piece of memory,
so a strip's operand is loaded as it lies, and 16 features fill the matrix units'
tiles. Each row is loaded once and multiplied with the kernel's three rows.
"""

# Triton's language only looks like Python.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

# Triton reads no other globals; as `ctjax.models.kernels.activation.SLOPE`.
SLOPE = tl.constexpr(0.01)


@triton.jit
def fused_convolution(
    x,
    kernel,
    bias,
    residual,
    mask,
    y,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    F: tl.constexpr,
    M: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    IS_ACTIVATED: tl.constexpr,
    HAS_MASK: tl.constexpr,
):
    """Convolves; adds a bias and an image, activates, multiplies by a derivative.

    Args:
      x: [N, H, W, C], W even.
      kernel: [3, 4 C, 2 F], see `ctjax.models.kernels.gpu.spread`.
      bias: [F] float32.
      residual: [N, H, W, F].
      mask: [N, H, W, F]; where it is not positive, what is written is multiplied by the
        activation's slope.
      y: [N, H, W, F], what is written.
      H: rows.
      W: columns.
      C: features.
      F: outputs.
      M: pairs of columns of a program.
      ROWS: rows of a program.
      STAGES: rows that are loaded ahead.
      HAS_BIAS: whether the bias is added.
      HAS_RESIDUAL: whether the image is added.
      IS_ACTIVATED: whether LeakyReLU follows the sum.
      HAS_MASK: whether the derivative is applied.
    """
    pair = tl.program_id(0) * M + tl.arange(0, M)
    row0 = tl.program_id(1) * ROWS
    image = tl.program_id(2).to(tl.int64)
    i = tl.arange(0, 4 * C)
    f = tl.arange(0, 2 * F)
    column = (2 * pair - 1)[:, None] + (i // C)[None, :]
    inside = (column >= 0) & (column < W)
    source = x + image * (H * W * C) + (2 * pair - 1)[:, None] * C + i[None, :]
    weights = kernel + i[:, None] * (2 * F) + f[None, :]
    upper = tl.load(weights)
    middle = tl.load(weights + 8 * C * F)
    lower = tl.load(weights + 16 * C * F)
    target = image * (H * W * F) + (2 * pair)[:, None] * F + f[None, :]
    exists = (2 * pair < W)[:, None]
    if HAS_BIAS:
        constant = tl.load(bias + f % F)[None, :]
    # Sums of two rows are under way: of the one above the row that is loaded, which is
    # complete with it, and of that row itself.
    above = tl.zeros((M, 2 * F), tl.float32)
    here = tl.zeros((M, 2 * F), tl.float32)
    for step in tl.range(0, ROWS + 2, num_stages=STAGES):
        row = row0 + step - 1
        pixels = tl.load(
            source + row * (W * C), mask=inside & (row >= 0) & (row < H), other=0.0
        )
        value = tl.dot(pixels, lower, above)
        above = tl.dot(pixels, middle, here)
        here = tl.dot(pixels, upper)
        # A condition instead of the mask would keep Triton from loading ahead.
        written = exists & (row - 1 >= row0) & (row - 1 < H)
        place = target + (row - 1) * (W * F)
        if HAS_BIAS:
            value += constant
        if HAS_RESIDUAL:
            value += tl.load(residual + place, mask=written, other=0.0).to(tl.float32)
        if IS_ACTIVATED:
            value = tl.where(value > 0, value, SLOPE * value)
        if HAS_MASK:
            sign = tl.load(mask + place, mask=written, other=0.0)
            value = tl.where(sign > 0, value, SLOPE * value)
        tl.store(y + place, value.to(y.dtype.element_ty), mask=written)


@triton.jit
def fused_kernel_gradient(
    x,
    gradient,
    sums,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    F: tl.constexpr,
    M: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Sums the gradients of kernel and bias over one strip.

    Args:
      x: [N, H, W, C], W even.
      gradient: [N, H, W, F], of the convolution's result.
      sums: [N, strips down, strips across, 24 C F + 2 F] float32: of the kernel
        [3, 4 C, 2 F], then of the bias, for even and odd columns.
      H: rows.
      W: columns.
      C: features.
      F: outputs.
      M: pairs of columns of a program.
      ROWS: rows of a program.
      STAGES: rows that are loaded ahead.
    """
    pair = tl.program_id(0) * M + tl.arange(0, M)
    row0 = tl.program_id(1) * ROWS
    image = tl.program_id(2).to(tl.int64)
    i = tl.arange(0, 4 * C)
    f = tl.arange(0, 2 * F)
    column = (2 * pair - 1)[:, None] + (i // C)[None, :]
    inside = (column >= 0) & (column < W)
    source = x + image * (H * W * C) + (2 * pair - 1)[:, None] * C + i[None, :]
    given = gradient + image * (H * W * F) + (2 * pair)[:, None] * F + f[None, :]
    exists = (2 * pair < W)[:, None]
    end = tl.minimum(row0 + ROWS, H)
    upper = tl.zeros((4 * C, 2 * F), tl.float32)
    middle = tl.zeros((4 * C, 2 * F), tl.float32)
    lower = tl.zeros((4 * C, 2 * F), tl.float32)
    total = tl.zeros((2 * F,), tl.float32)
    for step in tl.range(0, ROWS + 2, num_stages=STAGES):
        row = row0 + step - 1
        pixels = tl.trans(
            tl.load(
                source + row * (W * C), mask=inside & (row >= 0) & (row < H), other=0.0
            )
        )
        # Loaded three times: what is kept from row to row is not loaded ahead, which
        # costs more.
        below = tl.load(
            given + (row + 1) * (W * F), mask=exists & (row + 1 < end), other=0.0
        )
        total += tl.sum(below.to(tl.float32), 0)
        upper = tl.dot(pixels, below, upper)
        same = tl.load(
            given + row * (W * F),
            mask=exists & (row >= row0) & (row < end),
            other=0.0,
        )
        middle = tl.dot(pixels, same, middle)
        above = tl.load(
            given + (row - 1) * (W * F),
            mask=exists & (row - 1 >= row0) & (row - 1 < end),
            other=0.0,
        )
        lower = tl.dot(pixels, above, lower)
    strip = image * tl.num_programs(1) + tl.program_id(1)
    strip = strip * tl.num_programs(0) + tl.program_id(0)
    target = sums + strip * (24 * C * F + 2 * F)
    place = target + i[:, None] * (2 * F) + f[None, :]
    tl.store(place, upper)
    tl.store(place + 8 * C * F, middle)
    tl.store(place + 16 * C * F, lower)
    tl.store(target + 24 * C * F + f, total)
