"""Computes the attention of the networks that have it."""

import jax


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

    def split(x):
        return x.reshape(*x.shape[:2], heads, -1)

    y = jax.nn.dot_product_attention(*map(split, (query, key, value)))
    return y.reshape(query.shape)
