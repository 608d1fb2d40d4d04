"""The heads of the network of CosmicTagger's TensorFlow code, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax import models
from ctjax.config.choices import Normalization
from ctjax.config.heads import Classification, Vertex
from ctjax.config.networks import UResNetTensorFlow
from tests.support.small_networks import SMALL, random_variables

IMAGE = np.random.default_rng(0).exponential(size=(2, 3, 8, 16)).astype(np.float32)
HEAD = {"active": True, "n_filters": 3, "n_layers": 1, "detach": False}

OPTIONS = UResNetTensorFlow(
    **{**SMALL, "depth": 2, "normalization": Normalization.BATCH},
    classification=Classification(**HEAD),
    vertex=Vertex(**HEAD, depth=1),
)


def convolve(x, layer):
    y = jax.lax.conv_general_dilated(
        *(x, layer["kernel"], (1, 1), "SAME"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + layer.get("bias", jnp.zeros(1)).reshape(1, 1, 1, -1)


def activate(x):
    return jnp.where(x > 0, x, 0.2 * x)  # TensorFlow's slope


def said(x, variables, names):
    """What a head of one residual block makes of the outputs of a level."""
    first, blocks, last = names
    params = variables["params"]
    stats = variables["batch_stats"][blocks]["blocks_0"]
    block = params[blocks]["blocks_0"]

    def normalized(x, name):
        running, own = stats[name]["norm"], block[name]["norm"]
        gain = own["scale"] / np.sqrt(running["var"] + 1e-3)  # Keras's epsilon
        shift = own["bias"] - gain * running["mean"]
        return x * gain.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)

    x = convolve(x, params[first])
    y = convolve(x, block["convolution_1"]["conv"])
    y = activate(normalized(y, "convolution_1"))
    y = normalized(convolve(y, block["convolution_2"]["conv"]), "convolution_2")
    return convolve(activate(x + y), params[last])


@pytest.mark.slow
def test_heads_of_the_tensorflow_network_have_its_blocks():
    model, variables = models.make(OPTIONS), random_variables(OPTIONS)
    outputs, kept = model.apply(variables, IMAGE, capture_intermediates=True)
    level = kept["intermediates"]["net_core"]["main_module"]
    (above, _), (deepest, _) = level["__call__"][0], level["main_module"]["__call__"][0]
    planes = deepest.reshape(2, 3, 2, 4, -1)
    together = jnp.moveaxis(planes, 1, 3).reshape(2, 2, 4, -1)
    names = "classifier_input", "classifier", "bottleneck_classifer"
    event = said(together, variables, names).mean((1, 2))
    np.testing.assert_allclose(outputs.event, event, rtol=1e-4, atol=1e-4)
    names = "vertex_input", "vertex_layers", "bottleneck_vertex"
    vertex = said(above, variables, names).reshape(2, 3, 4, 8, 3)
    np.testing.assert_allclose(outputs.vertex, vertex, rtol=1e-4, atol=1e-4)
    # Without heads the pixels' scores are the same.
    alone = UResNetTensorFlow(
        **{**SMALL, "depth": 2, "normalization": Normalization.BATCH}
    )
    logits = jax.jit(models.make(alone).apply)(variables, IMAGE)
    np.testing.assert_allclose(outputs.pixels, logits, rtol=1e-4, atol=1e-4)
