"""The units of the network, by hand and against jax's own slower ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.config.fields import Normalization
from ctjax.learning import sharding
from ctjax.models import blocks, layers, normalization
from ctjax.models.kernels import activation, convolution
from tests.support.normalized import normalized


def random_array(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def column(*values):
    """A 1 x n image of one feature."""
    return jnp.array(values, jnp.float32).reshape(1, 1, -1, 1)


def test_leaky_relu_and_its_slope():
    x = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_allclose(activation.leaky_relu(x), [-0.02, 0, 3])
    slope = jax.grad(lambda x: activation.leaky_relu(x).sum())(x)
    np.testing.assert_allclose(slope, [0.01, 0.01, 1])


def test_leaky_relu_keeps_its_result_alone():
    y, pullback = jax.vjp(activation.leaky_relu, jnp.array([-2.0, 3.0]))
    (kept,) = jax.tree.leaves(pullback)
    np.testing.assert_array_equal(kept, y)


def test_bilinear_by_hand():
    x = jnp.array([[0.0, 4.0], [8.0, 12.0]]).reshape(1, 2, 2, 1)
    expected = np.array([0, 2, 6, 8])[:, None] + np.array([0, 1, 3, 4])
    np.testing.assert_allclose(layers.upsample_bilinear(x)[0, :, :, 0], expected)


def test_bilinear_agrees_with_image_resize():
    x = random_array(2, 5, 7, 3)
    # antialias is for shrinking; jax repeats the edge as torch does.
    expected = jax.image.resize(x, (2, 10, 14, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(
        layers.upsample_bilinear(x)[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-6
    )


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 2, 1)])
def test_the_gradient_of_bilinear_is_its_transpose(shape):
    def by_gather(x):
        for axis in (1, 2):
            size = x.shape[axis]
            nearest = np.arange(2 * size) // 2
            other = nearest + np.where(np.arange(2 * size) % 2, 1, -1)
            other = other.clip(0, size - 1)
            x = 0.75 * jnp.take(x, nearest, axis) + 0.25 * jnp.take(x, other, axis)
        return x

    x = random_array(*shape)
    expected, pull = jax.vjp(by_gather, x)
    found, pull_found = jax.vjp(layers.upsample_bilinear, x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    gradient = random_array(*expected.shape)
    np.testing.assert_allclose(*pull_found(gradient), *pull(gradient), atol=1e-6)


def reduce_window(x):
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )


def test_max_pool_gradient_of_ties_goes_to_the_first():
    x = jnp.array([[1.0, 1, 0, 2], [1, 1, 2, 2]]).reshape(1, 2, 4, 1)
    gradient = jax.grad(lambda x: layers.max_pool(x).sum())(x)[0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[1, 0, 0, 1], [0, 0, 0, 0]])


def test_max_pool_agrees_with_reduce_window():
    # Few distinct values, so that most windows tie in every pattern.
    x = jnp.asarray(np.random.default_rng(1).integers(0, 3, (3, 8, 12, 4)), jnp.float32)
    cotangent = random_array(3, 4, 6, 4)
    value, pullback = jax.vjp(layers.max_pool, x)
    expected, expected_pullback = jax.vjp(reduce_window, x)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(
        pullback(cotangent)[0], expected_pullback(cotangent)[0]
    )


def test_max_pool_gradient_survives_an_input_that_is_rounded_otherwise():
    # The compiler may compute the input anew for the backward pass. A comparison with
    # the maximum of the forward pass would then lose whole windows.
    x = random_array(3, 8, 12, 4)
    _, residuals = layers.max_pool.fwd(x)
    cotangent = random_array(3, 4, 6, 4)

    def rounded_otherwise(residual):
        return (
            jnp.nextafter(residual, jnp.inf) if residual.shape == x.shape else residual
        )

    (gradient,) = layers.max_pool.bwd(
        jax.tree.map(rounded_otherwise, residuals), cotangent
    )
    np.testing.assert_array_equal(
        gradient.reshape(3, 4, 2, 6, 2, 4).sum((2, 4)), cotangent
    )


@pytest.mark.parametrize("shape", [(6, 4, 5, 2), (3, 2, 2, 1)])
def test_planes_fold_and_unfold(shape):
    x = random_array(*shape)
    folded = layers.fold_planes_into_features(x, 3)
    assert folded.shape == (shape[0] // 3, *shape[1:3], 3 * shape[3])
    # Plane 1 of the first event is the second block of features.
    np.testing.assert_array_equal(folded[0, :, :, shape[3] : 2 * shape[3]], x[1])
    np.testing.assert_array_equal(layers.unfold_planes_from_features(folded, 3), x)


def apply(module, x, *arguments, **options):
    variables = module.init(jax.random.key(0), x, *arguments)
    return module.apply(variables, x, *arguments, **options), variables


def test_convolution_hands_the_bias_back():
    module = layers.Convolution(1, kernel_size=3)
    variables = {"params": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.array([5.0])}}
    y, bias = module.apply(variables, jnp.ones((1, 3, 3, 1)))
    np.testing.assert_array_equal(y[0, :, :, 0], [[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    np.testing.assert_array_equal(bias, [5])


def test_convolution_without_bias():
    (y, bias), variables = apply(
        layers.Convolution(2, kernel_size=1, use_bias=False), jnp.ones((1, 2, 2, 1))
    )
    assert bias is None and set(variables["params"]) == {"kernel"}
    assert y.shape == (1, 2, 2, 2)


def test_transposed_convolution_by_hand():
    kernel = jnp.arange(4.0).reshape(2, 2, 1, 1)
    module = layers.TransposedConvolution(1, kernel_size=2, stride=2, use_bias=False)
    y, _ = module.apply({"params": {"kernel": kernel}}, column(1.0, 10.0))
    found = np.array(y[0, :, :, 0])
    # XLA's transposed convolution stamps the kernel as it is, pixel by pixel.
    stamp = found[:, :2]
    assert sorted(stamp.ravel()) == [0, 1, 2, 3]
    np.testing.assert_array_equal(found[:, 2:], 10 * stamp)


def test_batch_norm_by_hand():
    # Two events of one pixel; planes (0, 2), (10, 14), (5, 5).
    x = jnp.array([0.0, 10, 5, 2, 14, 5]).reshape(6, 1, 1, 1)
    module = normalization.BatchNorm(features=1, num_planes=3)
    variables = module.init(jax.random.key(0), x, None)
    bias = jnp.array([100.0])
    y, updated = module.apply(variables, x, bias, mutable=["batch_stats"])
    np.testing.assert_allclose(y.ravel(), [-1, -1, 0, 1, 1, 0], rtol=1e-4)
    # Means 1, 12, 5 and unbiased variances 2, 8, 0, one plane after the other.
    mean, var = 0.0, 1.0
    for new_mean, new_var in ((101, 2), (112, 8), (105, 0)):
        mean, var = 0.9 * mean + 0.1 * new_mean, 0.9 * var + 0.1 * new_var
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], [mean], rtol=1e-6)
    np.testing.assert_allclose(stats["var"], [var], rtol=1e-6)
    gain, constant = module.apply(
        {**variables, **updated}, bias, method=module.affine, mutable=False
    )
    np.testing.assert_allclose(
        gain * x.ravel() + constant,
        (x.ravel() + 100 - mean) / np.sqrt(var + 1e-5),
        rtol=1e-5,
    )


def test_initialization_leaves_the_running_statistics_alone():
    variables = normalization.BatchNorm(1, 3).init(
        jax.random.key(0), random_array(6, 2, 2, 1) + 9, None
    )
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [0])
    np.testing.assert_array_equal(variables["batch_stats"]["var"], [1])


def test_batch_norm_keeps_planes_apart():
    x = random_array(6, 4, 4, 2)
    module = normalization.BatchNorm(features=2, num_planes=3)
    variables = module.init(jax.random.key(0), x, None)

    def normalized(x):
        return module.apply(variables, x, None, mutable=["batch_stats"])[0]

    before, after = normalized(x), normalized(x.at[1::3].add(100.0 * x[0, 0, 0, 0]))
    other_scale = normalized(x.at[1::3].multiply(7.0))
    np.testing.assert_allclose(other_scale[0::3], before[0::3], rtol=1e-6)
    np.testing.assert_allclose(after, before, atol=1e-4)


def normalize_plainly(x, scale, shift, slope, axis_name=None):
    """`blocks.normalize`, for jax to differentiate piece by piece."""
    wide = x.astype(jnp.float32)
    mean = wide.mean((0, 2, 3), keepdims=True)
    if axis_name is not None:
        mean = jax.lax.pmean(mean, axis_name)
    var = jnp.square(wide - mean).mean((0, 2, 3), keepdims=True)
    if axis_name is not None:
        var = jax.lax.pmean(var, axis_name)
    y = (wide - mean) / jnp.sqrt(var + normalization.BATCH_NORM_EPSILON)
    y = y * scale.reshape(1, 1, 1, 1, -1) + shift.reshape(1, 1, 1, 1, -1)
    y = jnp.where(y > 0, y, slope * y).astype(x.dtype)
    return y, mean[0, :, 0, 0], var[0, :, 0, 0]


@pytest.mark.parametrize("slope", [0.01, 1.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("axis_name", [None, sharding.EVENT_AXIS])
def test_normalize_and_its_gradient(slope, dtype, axis_name):
    x = (random_array(4, 3, 5, 6, 2) * 2 + 1).astype(dtype)
    scale, shift = random_array(2, seed=1), random_array(2, seed=2)
    cotangent = random_array(*x.shape, seed=3).astype(dtype)

    def results(normalize):
        return normalized(normalize, x, scale, shift, cotangent, slope, axis_name)

    found, expected = results(normalization.normalize), results(normalize_plainly)
    tolerance = 3e-6 if dtype == jnp.float32 else 2**-7
    for value, reference in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert value.dtype == reference.dtype
        reference = np.asarray(reference, np.float32)
        largest = np.abs(reference).max()
        np.testing.assert_allclose(
            value.astype(np.float32), reference, atol=tolerance * largest
        )


def test_normalize_keeps_one_array_of_the_images_size():
    x = random_array(2, 3, 4, 4, 2)
    one = jnp.ones(2)
    _, pullback = jax.vjp(lambda x: normalization.normalize(x, one, one, 0.01)[0], x)
    _, plain = jax.vjp(lambda x: normalize_plainly(x, one, one, 0.01)[0], x)
    large, more = (
        [leaf for leaf in jax.tree.leaves(p) if leaf.size == x.size]
        for p in (pullback, plain)
    )
    assert len(large) == 1 < len(more)
    np.testing.assert_array_equal(large[0], x)


def make_block(**changes):
    options = {
        "features": 4,
        "kernel_size": 3,
        "bias": True,
        "normalization": Normalization.NONE,
        "num_planes": 3,
    }
    return blocks.Block(**(options | changes))


def test_block_adds_its_bias_and_activates():
    x = random_array(3, 4, 4, 2)
    y, variables = apply(make_block(), x, False)
    params = dict(variables["params"])
    params["conv"] = {**params["conv"], "bias": jnp.full(4, -100.0)}
    shifted = make_block(is_activated=False).apply({"params": params}, x, False)
    plain = make_block(is_activated=False).apply(variables, x, False)
    np.testing.assert_allclose(shifted, plain - 100, rtol=1e-5)
    np.testing.assert_allclose(y, activation.leaky_relu(plain), rtol=1e-6)
    assert np.any(y != plain)


def test_c_computes_blocks_of_numpy_images_too(monkeypatch):
    monkeypatch.setattr(convolution, "takes_bias", lambda x, kernel: True)
    biased, calls = convolution.plain_biased, []
    monkeypatch.setattr(
        convolution, "convolve_biased", lambda *a: calls.append(a) or biased(*a)
    )
    apply(make_block(), np.ones((3, 4, 4, 2), np.float32), False)
    assert calls
    calls.clear()
    parts = (np.ones((3, 4, 4, 1), np.float32),) * 2
    apply(make_block(), parts, False)
    assert calls[0][3] is not None  # the others' sum, as a residual


def test_one_by_one_block_commutes_with_interpolation():
    x = random_array(3, 4, 4, 2)
    options = {"kernel_size": 1, "is_activated": False}
    before = make_block(**options, upsample=layers.upsample_bilinear)
    variables = before.init(jax.random.key(0), x, False)
    variables["params"]["conv"]["bias"] = random_array(4, seed=2)
    expected = make_block(**options).apply(
        variables, layers.upsample_bilinear(x), False
    )
    np.testing.assert_allclose(before.apply(variables, x, False), expected, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"is_activated": False},
        {"kernel_size": 1, "upsample": layers.upsample_bilinear},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 2, "stride": 2, "convolution": layers.TransposedConvolution},
    ],
    ids=["convolution", "bare", "upsample", "strided", "transposed"],
)
def test_evaluation_normalizes_by_the_running_statistics(bias, changes):
    x = random_array(3, 4, 4, 2)
    module = make_block(normalization=Normalization.BATCH, bias=bias, **changes)
    variables = module.init(jax.random.key(0), x, False)
    random = iter(range(100))
    variables = jax.tree.map(
        lambda leaf: jnp.abs(random_array(*leaf.shape, seed=next(random))) + 0.1,
        variables,
    )
    found = module.apply(variables, x, False)
    # By hand: the same convolution, then the running statistics.
    plain = make_block(bias=bias, **{**changes, "is_activated": False})
    y = plain.apply({"params": {"conv": variables["params"]["conv"]}}, x, False)
    norm, stats = variables["params"]["norm"], variables["batch_stats"]["norm"]
    mean, var, scale, shift = (
        leaf.reshape(1, 1, 1, -1)
        for leaf in (stats["mean"], stats["var"], norm["scale"], norm["bias"])
    )
    y = (y - mean) / jnp.sqrt(var + normalization.BATCH_NORM_EPSILON) * scale + shift
    y = activation.leaky_relu(y) if changes.get("is_activated", True) else y
    np.testing.assert_allclose(found, y, atol=3e-6 * np.abs(y).max())


def test_layer_norm_of_a_block():
    x = random_array(3, 4, 4, 2)
    module = make_block(normalization=Normalization.LAYER, is_activated=False)
    y, variables = apply(module, x, True)
    assert set(variables) == {"params"}
    np.testing.assert_allclose(y.mean(-1), np.zeros(y.shape[:-1]), atol=1e-5)
    assert 0.5 < float(y.std(-1).mean()) < 1.01


def test_instance_norm_of_a_block_takes_every_image_by_itself():
    x = random_array(3, 4, 6, 2)
    module = make_block(normalization=Normalization.INSTANCE, is_activated=False)
    y, variables = apply(module, x, True)
    assert set(variables) == {"params"}
    np.testing.assert_allclose(y.mean((1, 2)), np.zeros((3, 4)), atol=1e-5)
    np.testing.assert_allclose(y.std((1, 2)), np.ones((3, 4)), rtol=1e-3)
    np.testing.assert_array_equal(module.apply(variables, x, False), y)
    # A noisier second image changes nothing in the others.
    noisier = module.apply(variables, x.at[1].multiply(9.0), False)
    np.testing.assert_allclose(noisier[::2], y[::2], rtol=1e-6)


def test_residual_block_adds_its_input():
    x = random_array(3, 4, 4, 4)

    def block(**options):
        return make_block(**options)

    module = blocks.ResidualBlock(block)
    variables = jax.tree.map(jnp.zeros_like, module.init(jax.random.key(0), x, False))
    np.testing.assert_allclose(
        module.apply(variables, x, False), activation.leaky_relu(x), rtol=1e-6
    )
    series = blocks.BlockSeries(block, n_blocks=2, residual=False)
    variables = series.init(jax.random.key(0), x, False)
    assert set(variables["params"]) == {"blocks_0", "blocks_1"}
    zeros = jax.tree.map(jnp.zeros_like, variables)
    assert not np.any(series.apply(zeros, x, False))
