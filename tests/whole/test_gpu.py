"""The same numbers on a GPU as on the CPU; `-m gpu`, skipped where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctjax.config.fields import LossBalanceScheme, Network, Normalization
from ctjax.data import pipeline, sources
from ctjax.learning import compiled as learning_compiled
from ctjax.learning import dense_images, sharding, steps
from ctjax.learning.state import make_state
from ctjax.models import UResNet
from ctjax.models.kernels import gpu as kernels_gpu
from tests.support.small_networks import (
    nobody_stops,
    random_minibatch,
    random_variables,
    step_options,
)

SHAPE = (40, 64)
NETWORK = {
    "n_initial_filters": 8,
    "depth": 2,
    "blocks_per_layer": 1,
    "blocks_deepest_layer": 1,
    "blocks_final": 1,
    "bottleneck_deepest": 16,
}

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def places():
    """A GPU and a CPU of the same process."""
    try:
        return jax.devices("gpu")[0], jax.devices("cpu")[0]
    except RuntimeError as error:
        pytest.skip(f"jax has no GPU: {error}".splitlines()[0])


@pytest.fixture(autouse=True)
def whole_float32():
    """Without it products of float32 are rounded to TF32 on the way in."""
    with jax.default_matmul_precision("highest"):
        yield


def minibatch():
    return random_minibatch(SHAPE, 2, 1)


def networks():
    return [
        pytest.param(Network(**NETWORK), id="batch"),
        pytest.param(Network(**NETWORK, normalization=Normalization.NONE), id="none"),
    ]


def relative(value, expected):
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    return np.abs(value - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("network", networks())
def test_logits(places, network):
    model, image = UResNet(network), minibatch().image
    variables = random_variables(network)

    def logits(place):
        return jax.jit(model.apply)(*jax.device_put((variables, image), place))

    gpu, cpu = (np.asarray(logits(place)) for place in places)
    assert relative(gpu, cpu) < 1e-5


def test_bfloat16_is_near(places):
    network = Network(**NETWORK, normalization=Normalization.NONE)
    image, variables = minibatch().image, random_variables(network)
    found = jax.jit(UResNet(network, jnp.bfloat16).apply)(
        *jax.device_put((variables, image), places[0])
    )
    expected = jax.jit(UResNet(network).apply)(
        *jax.device_put((variables, image), places[1])
    )
    assert found.dtype == jnp.float32
    assert 1e-5 < relative(found, expected) < 0.1


@pytest.mark.parametrize("network", networks())
def test_training_steps(places, network):
    rule = optax.sgd(1e-3)
    step = steps.make_train_step(
        model=UResNet(network),
        optimizer=rule,
        schedule=lambda step: 1e-3,
        options=step_options(SHAPE, LossBalanceScheme.FOCAL, sharding.EVENT_AXIS),
    )
    variables = {"batch_stats": {}} | random_variables(network)

    def train(place):
        mesh = sharding.make_mesh([place])
        compiled = learning_compiled.compile_train_step(step, mesh)
        batch = minibatch()
        arrays = sharding.distribute((batch, nobody_stops(batch)), mesh)
        state, found = sharding.replicate(make_state(variables, rule), mesh), []
        for _ in range(3):
            state, results = compiled(state, *arrays)
            found.append((float(results["loss"]), float(results["grad_norm"])))
        return np.array(found), jax.tree.map(np.asarray, state.params)

    (gpu, gpu_params), (cpu, cpu_params) = (train(place) for place in places)
    # Activations at the kink of their unit fall on either side.
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3)
    assert gpu[0, 0] == pytest.approx(cpu[0, 0], rel=1e-5)
    differences = jax.tree.leaves(jax.tree.map(np.subtract, gpu_params, cpu_params))
    moved = jax.tree.leaves(jax.tree.map(np.subtract, cpu_params, variables["params"]))
    total = np.sqrt(sum(np.square(array).sum() for array in moved))
    assert total > 0
    missed = np.sqrt(sum(np.square(array).sum() for array in differences))
    assert missed < 1e-2 * total


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize("is_normalized", [True, False])
@pytest.mark.parametrize(
    # Triton takes half a minute for products of 32 features in whole float32.
    "features, dtype",
    [(16, jnp.float32), (32, jnp.bfloat16)],
)
def test_fused_convolutions(places, features, dtype, is_normalized):
    random = np.random.default_rng(2)

    def draw(*shape, dtype=np.float32):
        return np.asarray(random.normal(0, 1, shape)).astype(dtype)

    x, residual = (draw(6, 8, 128, features, dtype=dtype) for _ in range(2))
    kernel = draw(3, 3, features, features, dtype=dtype)
    affine = draw(3, features), draw(3, features)

    @jax.jit
    def biased(x, kernel, bias, residual):
        return kernels_gpu.biased(x, kernel, bias, residual, True)

    @jax.jit
    def normalized(x, affine, kernel):
        y, sums = kernels_gpu.normalized(x, affine, kernel, 3)
        return y, *sums

    def run(place):
        if is_normalized:
            return normalized(*jax.device_put((x, affine, kernel), place))
        return (biased(*jax.device_put((x, kernel, affine[0][0], residual), place)),)

    for gpu, cpu in zip(*map(run, places), strict=True):
        assert gpu.dtype == cpu.dtype
        assert relative(gpu, cpu) < (1e-5 if dtype == jnp.float32 else 1e-2)


def test_images_made_on_the_device_are_those_of_the_host(places):
    found = {}
    for sparse in (False, True):
        with (
            sources.open_source(synthetic=True, downsample=2, seed=3) as source,
            pipeline.minibatches(
                source, iter([np.arange(2)]), io_threads=1, sparse=sparse
            ) as reader,
        ):
            found[sparse] = jax.tree.map(np.copy, next(reader))
            shape = source.image_shape
    arrays = found[True].ids, found[True].values, found[True].labels
    image, label = jax.jit(dense_images.densify, static_argnums=3)(
        *jax.device_put(arrays, places[0]), shape
    )
    np.testing.assert_array_equal(image, found[False].image)
    np.testing.assert_array_equal(label, found[False].label)
