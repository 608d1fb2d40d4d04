"""Makes dense images on the device from the sparse form of the pipeline."""

import jax
import jax.numpy as jnp


def densify(
    ids: jax.Array, values: jax.Array, labels: jax.Array, shape: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Writes pixels into zeros, bit for bit as the host does.

    Args:
      ids: [B, P, V] int32, `column * H + row`, ascending and unique in each plane;
        H * W and above for places that hold nothing.
      values: [B, P, V] float32, charges.
      labels: [B, P, V] uint8, classes.
      shape: rows H and columns W; static under jit.

    Returns:
      image [B, P, H, W] float32 and label [B, P, H, W] uint8.
    """
    num_rows, num_columns = shape

    def scatter(where: jax.Array, what: jax.Array) -> jax.Array:
        flat = jnp.zeros(num_rows * num_columns, what.dtype)
        flat = flat.at[where].set(
            what, mode="drop", unique_indices=True, indices_are_sorted=True
        )
        # Ids count down the columns, which keeps them in the file's order.
        return flat.reshape(num_columns, num_rows).T

    over_events_and_planes = jax.vmap(jax.vmap(scatter))
    return over_events_and_planes(ids, values), over_events_and_planes(ids, labels)
