"""Normalizes on one device or on all of them, forth and back."""

import jax
import jax.numpy as jnp

from ctjax.learning import sharding


def normalized(normalize, x, scale, shift, cotangent, slope, axis_name):
    """The result, the gradients of x and of the rest, and the statistics."""

    def of_device(x, scale, shift, cotangent):
        scale, shift = sharding.varying((scale, shift), axis_name)
        (y, *statistics), pullback = jax.vjp(
            lambda *a: normalize(*a, slope, axis_name), x, scale, shift
        )
        zeros = [jnp.zeros_like(part) for part in statistics]
        of_x, *others = pullback((cotangent, *zeros))
        return y, of_x, sharding.total(others, axis_name), statistics

    if axis_name is None:
        return jax.jit(of_device)(x, scale, shift, cotangent)
    cut, same = sharding.BY_EVENT, sharding.REPLICATED
    return jax.jit(
        jax.shard_map(
            of_device,
            mesh=sharding.make_mesh(),
            in_specs=(cut, same, same, cut),
            out_specs=(cut, cut, same, same),
        )
    )(x, scale, shift, cotangent)
