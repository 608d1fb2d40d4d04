"""The same numbers on a GPU as on the CPU; `-m gpu`, skipped where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctjax.config.fields import LossBalanceScheme, Network, Normalization
from ctjax.data import pipeline, sources
from ctjax.data.minibatch import Form
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


FUSED = [
    (features, dtype)
    for features, size in kernels_gpu.CONVOLUTIONS
    for dtype in {2: (jnp.float16, jnp.bfloat16), 4: (jnp.float32,)}[size]
]


@pytest.mark.parametrize("features, dtype", FUSED)
# Neither rows nor columns of the second fill their programs.
@pytest.mark.parametrize("shape", [(3, 64, 256), (2, 37, 70)])
def test_fused_convolutions(places, shape, features, dtype):
    kernel_shape = 3, 3, features, features
    if lacking := kernels_gpu.missing():
        pytest.skip(f"expected {lacking}")
    with jax.default_matmul_precision("default"):
        assert kernels_gpu.takes((*shape, features), kernel_shape, dtype, None)
    random = np.random.default_rng(2)

    def draw(*shape, dtype=dtype):
        return np.asarray(random.normal(0, 1, shape)).astype(dtype)

    x, residual, mask = (draw(*shape, features) for _ in range(3))
    kernel, bias = (
        draw(*part, dtype=np.float32) for part in (kernel_shape, (features,))
    )

    def run(place, convolve, kernel_gradient):
        given = jax.device_put((x, kernel, bias, residual, mask), place)
        x_there, kernel_there, bias_there, residual_there, mask_there = given
        return [
            convolve(*given[:4], None, is_activated=True),
            convolve(x_there, kernel_there, bias_there, None, None, is_activated=True),
            convolve(x_there, kernel_there, None, *given[3:], is_activated=False),
            convolve(x_there, kernel_there, None, None, mask_there, is_activated=False),
            *kernel_gradient(x_there, residual_there),
        ]

    gpu = run(places[0], kernels_gpu.launch, kernels_gpu.launch_kernel_gradient)
    cpu = run(places[1], kernels_gpu.plain, kernels_gpu.plain_kernel_gradient)
    for index, (found, expected) in enumerate(zip(gpu, cpu, strict=True)):
        assert found.dtype == expected.dtype
        # The last is a sum of exact numbers; float32 is rounded to TF32.
        rounding = 1e-6 if index == 5 else 3e-3 if dtype == jnp.float32 else 1e-2
        assert relative(found, expected) < rounding


@pytest.mark.parametrize("is_residual", [True, False])
def test_gradients_of_a_fused_series(places, is_residual):
    if lacking := kernels_gpu.missing():
        pytest.skip(f"expected {lacking}")
    random = np.random.default_rng(2)
    x, weights = (
        random.normal(0, 1, (3, 37, 70, 16)).astype(jnp.bfloat16) for _ in range(2)
    )
    kernels = tuple(
        random.normal(0, 0.1, (3, 3, 16, 16)).astype(np.float32) for _ in range(4)
    )
    biases = tuple(random.normal(0, 0.3, 16).astype(np.float32) for _ in range(4))

    @jax.jit
    def gradients(x, kernels, biases, weights):
        def loss(*given):
            y = kernels_gpu.series(*given, is_residual)
            return (y.astype(jnp.float32) * weights).sum()

        return jax.grad(loss, (0, 1, 2))(x, kernels, biases)

    gpu, cpu = (
        jax.tree.leaves(
            gradients(*jax.device_put((x, kernels, biases, weights), place))
        )
        for place in places
    )
    for found, expected in zip(gpu, cpu, strict=True):
        found, expected = (np.asarray(a, np.float64) for a in (found, expected))
        # Activations at the kink of their unit fall on either side.
        missed = np.linalg.norm(found - expected)
        assert missed < 0.05 * np.linalg.norm(expected)


def test_images_made_on_the_device_are_those_of_the_host(places):
    found = {}
    for form in Form:
        with (
            sources.open_source(synthetic=True, downsample=2, seed=3) as source,
            pipeline.minibatches(
                source, iter([np.arange(2)]), io_threads=1, form=form
            ) as reader,
        ):
            found[form] = jax.tree.map(np.copy, next(reader))
            shape = source.image_shape
    arrays = (
        found[Form.PIXELS].ids,
        found[Form.PIXELS].values,
        found[Form.PIXELS].labels,
    )
    image, label = jax.jit(dense_images.densify, static_argnums=3)(
        *jax.device_put(arrays, places[0]), shape
    )
    np.testing.assert_array_equal(image, found[Form.DENSE].image)
    np.testing.assert_array_equal(label, found[Form.DENSE].label)
