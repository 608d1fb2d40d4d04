"""Computes the attention of the networks that have it."""

import jax
import jax.numpy as jnp


def attend(query: jax.Array, key: jax.Array, value: jax.Array, heads: int) -> jax.Array:
    """Weights values by the softmax of the products of queries and keys.

    Args:
      query: [N, T, C], as many parts of C as there are heads, one after the other.
      key: [N, S, C], likewise.
      value: [N, S, C], likewise.
      heads: how many; products are divided by the root of C / heads.

    Returns:
      [N, T, C].
    """

    def plain(*arrays):
        parts = [x.reshape(*x.shape[:2], heads, -1) for x in arrays]
        return jax.nn.dot_product_attention(*parts).reshape(query.shape)

    def in_float32(*arrays):
        wide = plain(*(x.astype(jnp.float32) for x in arrays))
        return wide.astype(query.dtype)

    if query.dtype == jnp.float32:
        return plain(query, key, value)
    # XLA's CPU backend (jaxlib 0.10 and 0.12) has no product of float16 that it sums in
    # float32, and one of bfloat16 ends the process where heads have one feature.
    return jax.lax.platform_dependent(query, key, value, cpu=in_float32, default=plain)
