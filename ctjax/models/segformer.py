"""Defines SegFormer: four stages of attention on ever smaller maps, and one decoder.

Modules take and return [N, H, W, C] with N = events x planes; planes never meet.
Submodules have the names of CosmicTagger's. Parameters are declared as 0 and drawn by
`state.init_variables`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.models.attention import attend
from ctjax.models.pixel_network import (
    ImageRule,
    PixelNetwork,
    Wrapped,
    apply_in_turn,
    torch_bounds,
)

FIRST_STRIDE = 4  # of the first embedding; each of the others halves
LAYER_NORM_EPSILON = 1e-5  # torch.nn.LayerNorm's default

_zeros = nn.initializers.zeros_init()
_Dense = functools.partial(nn.Dense, kernel_init=_zeros)
_Conv = functools.partial(nn.Conv, kernel_init=_zeros)
_LayerNorm = functools.partial(
    nn.LayerNorm, epsilon=LAYER_NORM_EPSILON, use_fast_variance=False
)


class Attention(nn.Module):
    """Attends from every pixel to those of a smaller map.

    Attributes:
      heads: number of heads.
      reduction: how much smaller; what is left over at the edges is not seen.
      dtype: compute type.
    """

    heads: int
    reduction: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        images, features = x.shape[0], x.shape[-1]
        query = _Dense(features, use_bias=False, dtype=self.dtype, name="q")(x)
        reduced = x
        if self.reduction > 1:
            size = (self.reduction, self.reduction)
            reduced = _Conv(
                features, size, size, padding="VALID", dtype=self.dtype, name="sr"
            )(x)
        both = _Dense(2 * features, use_bias=False, dtype=self.dtype, name="kv")(
            reduced
        )
        key, value = jnp.split(both.reshape(images, -1, 2 * features), 2, axis=-1)
        query = query.reshape(images, -1, features)
        y = attend(query, key, value, self.heads).reshape(x.shape)
        return _Dense(features, dtype=self.dtype, name="proj")(y)


class DepthwiseConvolution(nn.Module):
    """Convolves every feature by itself, 3 x 3, and adds a bias.

    Written as a sum over the kernel's nine places: the gradient of a convolution in as
    many groups as there are features is computed as if in one by XLA on CPUs.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        height, width, features = x.shape[1:]
        kernel = self.param("kernel", _zeros, (3, 3, 1, features)).astype(self.dtype)
        bias = self.param("bias", _zeros, (features,)).astype(self.dtype)
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = bias[None, None, None]
        for row in range(3):
            for column in range(3):
                part = padded[:, row : row + height, column : column + width]
                y = y + part * kernel[row, column][None, None]
        return y


class FeedForward(nn.Module):
    """Widens, convolves every feature by itself and narrows; without any activation.

    Attributes:
      ratio: how much wider.
      dtype: compute type.
    """

    ratio: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        features = x.shape[-1]
        y = _Dense(self.ratio * features, dtype=self.dtype, name="fc1")(x)
        y = DepthwiseConvolution(self.dtype, name="dwconv")(y)
        return _Dense(features, dtype=self.dtype, name="fc2")(y)


class TransformerBlock(nn.Module):
    """Adds attention, then what follows it, each of the normalized map.

    Attributes:
      heads: as in `Attention`.
      reduction: as in `Attention`.
      ratio: as in `FeedForward`.
      dtype: compute type.
    """

    heads: int
    reduction: int
    ratio: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        y = _LayerNorm(dtype=self.dtype, name="norm1")(x)
        x = x + Attention(self.heads, self.reduction, self.dtype, name="attn")(y)
        y = _LayerNorm(dtype=self.dtype, name="norm2")(x)
        return x + FeedForward(self.ratio, self.dtype, name="mlp")(y)


class Encoder(nn.Module):
    """Computes the maps of the four stages; attributes as of the network."""

    network: Any
    dtype: Any
    remat: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Maps [N, H, W, 1] to maps [N, H/4, W/4, C1], [N, H/8, W/8, C2], ..."""
        config = self.network
        maps = []
        for stage, features in enumerate(config.in_dims):
            size, stride = (7, FIRST_STRIDE) if stage == 0 else (3, 2)
            embedding = functools.partial(
                _Conv,
                features,
                (size, size),
                (stride, stride),
                padding=[(size // 2, size // 2)] * 2,
                dtype=self.dtype,
            )
            x = Wrapped(embedding, "proj", name=f"patch_embedding{stage + 1}")(x)
            block = functools.partial(
                TransformerBlock,
                config.num_heads[stage],
                config.sr_ratios[stage],
                config.mlp_ratios[stage],
                self.dtype,
            )
            count = config.depths[stage]
            names = [f"block_{stage + 1}_{index}" for index in range(count)]
            x = apply_in_turn(self, x, block, names, self.remat)
            maps.append(x)
        return maps


class SegFormer(PixelNetwork):
    """Computes CosmicTagger's SegFormer; see `PixelNetwork`.

    It takes nothing of a minibatch: training and evaluation give the same.

    Source:
      CosmicTagger v2.1, src/networks/torch/segformer.py; arXiv:2105.15203, of which it
      has neither the activation in the blocks nor the normalizations between stages.
    """

    @nn.nowrap
    def image_rule(self) -> ImageRule:
        """Says that every stage's map must hold at least one reduced pixel."""
        strides = (FIRST_STRIDE * 2**stage for stage in range(4))
        least = map(lambda s, r: s * (r - 1) + 1, strides, self.network.sr_ratios)
        smallest = -(-max(least) // FIRST_STRIDE) * FIRST_STRIDE
        return ImageRule(FIRST_STRIDE, smallest, "sr_ratios")

    @nn.nowrap
    def initial_bounds(self, shapes) -> dict:
        """Draws kernels and biases as torch does by itself."""
        return torch_bounds(shapes)

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Computes the class scores of every pixel.

        Args:
          image: [B, P, H, W], charge; H and W divisible by 4.
          train: of no effect.

        Returns:
          logits, [B, P, H, W, K] float32, the same for the pixels of each 4 x 4.

        Raises:
          ValueError: planes or pixels do not fit the network.
        """
        x = self.fold(image)
        maps = Encoder(self.network, self.dtype, self.remat, name="encoder")(x)
        width = self.network.decoder_dim
        dense = functools.partial(_Dense, width, dtype=self.dtype)
        decoded = []
        for letter, x in zip("abcd", maps, strict=True):
            x = Wrapped(dense, "proj", name=f"mlp_{letter}")(x)
            shape = (x.shape[0], *maps[0].shape[1:3], width)
            decoded.append(jax.image.resize(x, shape, "bilinear"))
        x = jnp.concatenate(decoded, axis=-1)
        x = _Conv(width, (1, 1), dtype=self.dtype, name="fuse")(x)
        classes = self.detector.num_classes
        x = _Conv(classes, (1, 1), dtype=self.dtype, name="out")(x)
        return self.unfold(_repeat(x))


def _repeat(x):
    """Makes FIRST_STRIDE x FIRST_STRIDE pixels of each."""
    n, height, width, features = x.shape
    times = FIRST_STRIDE
    x = x[:, :, None, :, None]
    x = jnp.broadcast_to(x, (n, height, times, width, times, features))
    return x.reshape(n, times * height, times * width, features)
