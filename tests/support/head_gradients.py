"""How far the gradient of what a head says goes."""

import jax
import jax.numpy as jnp
import numpy as np

from ctjax import models
from ctjax.config.fields import Network
from tests.support.small_networks import SMALL, random_variables

IMAGE = np.random.default_rng(0).exponential(size=(2, 3, 8, 16)).astype(np.float32)


def gradient(head, section):
    """Largest gradient of what a head says, of its own and of other parameters."""
    options = Network(**SMALL, **{section: head})
    model, variables = models.make(options), random_variables(options)

    @jax.jit
    def slope(params):
        def total(params):
            outputs, _ = model.apply(
                {**variables, "params": params}, IMAGE, True, mutable=["batch_stats"]
            )
            said = outputs.event if outputs.vertex is None else outputs.vertex
            return jnp.sum(jnp.sin(said))

        return jax.grad(total)(params)

    found = slope(variables["params"])
    sizes = {n: max(abs(x).max() for x in jax.tree.leaves(g)) for n, g in found.items()}
    own = {"vertex_input", "classifier_input"}
    return max(sizes[n] for n in own & set(sizes)), sizes["initial_convolution"]
