"""Padding of planes that are smaller than the image, which no statistics count."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ctjax import models
from ctjax.base.detector import Detector
from ctjax.config.architecture import Architecture
from ctjax.config.fields import Network, Normalization
from ctjax.learning import sharding
from ctjax.models import blocks, normalization, uresnet_tensorflow, uresnet_v21
from ctjax.models.kernels import columns
from ctjax.models.own_pixels import OwnPixels, PlaneAxis
from tests.support.normalized import normalized
from tests.support.small_networks import SMALL, other_network, random_variables

IMAGE = (8, 16)
SHAPES = ((8, 10), (5, 16), (3, 7))
HALVED = ((4, 5), (3, 8), (2, 4))
"""Of the planes one level below, where half of an odd number is rounded up."""

BATCH_NORMALIZED = (
    Architecture.URESNET_V21,
    Architecture.URESNET3D,
    Architecture.URESNET_TENSORFLOW,
)

OWN = OwnPixels(IMAGE, SHAPES)


def random_array(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def by_hand(shapes, height, width):
    """Own pixels [P, H, W] of planes, one pixel after the other."""
    inside = [
        [[row < h and column < w for column in range(width)] for row in range(height)]
        for h, w in shapes
    ]
    return np.array(inside)


@pytest.mark.parametrize("level, shapes", [(1, SHAPES), (2, HALVED)])
@pytest.mark.parametrize("num_columns", [1, 2])
@pytest.mark.parametrize("planes", PlaneAxis)
def test_own_pixels_by_hand(planes, num_columns, level, shapes):
    own = OwnPixels(IMAGE, SHAPES, planes)
    height, width, features = IMAGE[0] // level, IMAGE[1] // level, 6
    inside = by_hand(shapes, height, width)
    whole = np.zeros((6, height, width, features), bool)
    whole |= {
        PlaneAxis.IMAGES: np.concatenate([inside, inside])[..., None],
        PlaneAxis.NOWHERE: inside.any(0)[None, ..., None],
        PlaneAxis.FEATURES: np.repeat(inside, 2, 0).transpose(1, 2, 0)[None],
    }[planes]
    folded = np.asarray(columns.fold(jnp.asarray(whole), num_columns))
    found = own.mask(folded.shape, features)
    np.testing.assert_array_equal(np.broadcast_to(found, folded.shape), folded)
    count = np.broadcast_to(own.count(folded.shape, features), (6, features))
    np.testing.assert_array_equal(count, whole.sum((1, 2)))


def normalize_unpadded(x, scale, shift, slope, axis_name=None):
    """Normalizes by the statistics of each plane's own part, plainly."""
    results = []
    for plane, (height, width) in enumerate(SHAPES):
        part = x[:, plane, :height, :width].astype(jnp.float32)
        mean = part.mean((0, 1, 2))
        if axis_name is not None:
            mean = jax.lax.pmean(mean, axis_name)
        var = jnp.square(part - mean[None, None, None]).mean((0, 1, 2))
        if axis_name is not None:
            var = jax.lax.pmean(var, axis_name)
        gain = scale / jnp.sqrt(var + normalization.BATCH_NORM_EPSILON)
        y = (x[:, plane] - mean[None, None, None]) * gain[None, None, None]
        y = y + shift[None, None, None]
        results.append((jnp.where(y > 0, y, slope * y).astype(x.dtype), mean, var))
    y, mean, var = zip(*results, strict=True)
    return jnp.stack(y, 1), jnp.stack(mean), jnp.stack(var)


def normalize_in_columns(x, *arguments, num_columns=1):
    """Calls `normalize` with columns as features."""
    folded = columns.fold(x.reshape(-1, *x.shape[2:]), num_columns)
    y, *statistics = normalization.normalize(
        folded.reshape(*x.shape[:2], *folded.shape[1:]),
        *arguments,
        normalization.BATCH_NORM_EPSILON,
        OWN,
    )
    return y.reshape(x.shape), *statistics


@pytest.mark.parametrize(
    "num_columns, axis_name",
    [
        (1, None),
        (4, sharding.EVENT_AXIS),
        pytest.param(1, sharding.EVENT_AXIS, marks=pytest.mark.slow),
        pytest.param(4, None, marks=pytest.mark.slow),
    ],
)
def test_planes_are_normalized_as_without_padding(num_columns, axis_name):
    # The padding is of other numbers, and has gradients, of the convolution behind it.
    x = random_array(8, 3, *IMAGE, 2) + 2
    x = jnp.where(OWN.mask((24, *IMAGE, 2), 2).reshape(8, 3, *IMAGE, 1), x, 9 * x)
    scale, shift = jnp.array([1.5, 0.3]), jnp.array([0.2, -1.0])
    cotangent = random_array(*x.shape, seed=1)

    def results(normalize):
        return normalized(normalize, x, scale, shift, cotangent, 0.01, axis_name)

    found = results(functools.partial(normalize_in_columns, num_columns=num_columns))
    expected = results(normalize_unpadded)
    for value, reference in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        largest = np.abs(reference).max()
        np.testing.assert_allclose(value, reference, atol=1e-5 * largest)


def test_gradients_are_differences():
    x = random_array(1, 3, *IMAGE, 1)

    @jax.jit
    def function(*arguments):
        return normalization.normalize(*arguments, 1.0, None, 1e-5, OWN)[0]

    check_grads(function, (x, jnp.ones(1), jnp.ones(1)), 1, ["rev"], 2e-2, 2e-2, 1e-2)


@functools.partial(jax.jit, static_argnums=0)
def updated_statistics(module, x):
    """Running statistics of a batch normalization after one minibatch."""
    variables = module.init(jax.random.key(0), x, None)
    return module.apply(variables, x, None, mutable=["batch_stats"])[1]["batch_stats"]


@pytest.mark.parametrize("planes", PlaneAxis)
def test_running_statistics_have_each_planes_own_count(planes):
    own = OwnPixels(IMAGE, SHAPES, planes)
    num_planes = 3 if planes is PlaneAxis.IMAGES else 1
    x = random_array(6, *IMAGE, 3)
    module = normalization.BatchNorm(3, num_planes, own=own)
    updated = updated_statistics(module, x)
    mean, var = np.zeros(3), np.ones(3)
    mask = np.broadcast_to(own.mask(x.shape, 3), x.shape)
    for plane in range(num_planes):
        values, counted = x[plane::num_planes], mask[plane::num_planes]
        for feature in range(3):
            taken = values[..., feature][counted[..., feature]]
            mean[feature] += 0.1 * (taken.mean() - mean[feature])
            var[feature] += 0.1 * (taken.var(ddof=1) - var[feature])
    np.testing.assert_allclose(updated["mean"], mean, atol=1e-6)
    np.testing.assert_allclose(updated["var"], var, rtol=1e-5)


def test_planes_together_have_the_statistics_of_all_own_pixels():
    x = random_array(6, *IMAGE, 1)
    module = normalization.BatchNorm(1, 1, own=OWN, momentum=1.0)
    updated = updated_statistics(module, x)
    taken = x[np.broadcast_to(OWN.mask(x.shape, 1), x.shape)]
    np.testing.assert_allclose(updated["mean"], [taken.mean()], atol=1e-6)
    np.testing.assert_allclose(updated["var"], [taken.var(ddof=1)], rtol=1e-5)


slow = functools.partial(pytest.param, marks=pytest.mark.slow)

NORMS = [
    slow(blocks.Block, Normalization.BATCH, None),
    slow(blocks.Block, Normalization.LAYER, None),
    (blocks.Block, Normalization.INSTANCE, None),
    *(slow(blocks.Block, kind, make) for kind, make in uresnet_v21.NORMS.items()),
    (uresnet_tensorflow.Block, Normalization.BATCH, None),
    slow(uresnet_tensorflow.Block, Normalization.LAYER, None),
]


@pytest.mark.parametrize("kind, normalization, make_norm", NORMS)
def test_blocks_normalize_planes_as_without_padding(kind, normalization, make_norm):
    options = {
        "features": 4,
        "kernel_size": 1,
        "bias": True,
        "normalization": normalization,
        "num_planes": 3,
    }
    if make_norm is not None:
        options["make_norm"] = make_norm
    x = random_array(6, *IMAGE, 2)
    module, alone = kind(**options, own=OWN), kind(**(options | {"num_planes": 1}))

    @jax.jit
    def compare():
        variables = module.init(jax.random.key(0), x, False)
        y, _ = module.apply(variables, x, True, mutable=["batch_stats"])
        pairs = []
        for plane, (height, width) in enumerate(SHAPES):
            part = x[plane::3, :height, :width]
            expected, _ = alone.apply(variables, part, True, mutable=["batch_stats"])
            pairs.append((y[plane::3, :height, :width], expected))
        return pairs

    for found, expected in compare():
        np.testing.assert_allclose(found, expected, atol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def apply(module, variables, x):
    """Applies a module that takes the statistics of what it is given."""
    return module.apply(variables, x, True, mutable=["batch_stats"])


@pytest.mark.slow
def test_upsampling_of_v21_normalizes_planes_as_without_padding():
    x = random_array(6, 4, 8, 4)
    for kind, make_norm in {Normalization.BATCH: None, **uresnet_v21.NORMS}.items():
        results = []
        for num_planes, own in ((3, OWN), (1, None)):
            block = functools.partial(
                blocks.Block,
                bias=True,
                normalization=kind,
                num_planes=num_planes,
                dtype=jnp.float32,
                axis_name=None,
                make_norm=make_norm,
                own=own,
            )
            results.append(uresnet_v21.Upsample(2, block))
        padded, alone = results
        variables = jax.jit(padded.init, static_argnums=2)(jax.random.key(0), x, False)
        y, _ = apply(padded, variables, x)
        part = x[::3, :4, :5]  # of the first plane, one level below
        expected, _ = apply(alone, variables, part)
        np.testing.assert_allclose(y[::3, :8, :10], expected, atol=1e-5)


def train(network, detector, image):
    """Logits and running statistics of a step."""
    model = models.make(network, detector=detector)
    return jax.jit(
        lambda variables: model.apply(
            variables, image, train=True, mutable=["batch_stats"]
        )
    )(random_variables(network))


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        Network(**SMALL),
        other_network(Architecture.URESNET_V21, normalization=Normalization.INSTANCE),
        other_network(Architecture.URESNET3D),
        other_network(Architecture.URESNET_TENSORFLOW),
    ],
    ids=lambda n: f"{n.architecture.value}-{n.normalization.value}",
)
def test_every_norm_of_a_network_counts_own_pixels(network):
    image = np.asarray(random_array(2, 3, *IMAGE))
    plain = train(network, Detector(), image)
    whole = train(network, Detector(plane_shapes=(IMAGE,) * 3), image)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), plain, whole)
    own = train(network, Detector(plane_shapes=SHAPES), image)
    stats = jax.tree.leaves_with_path(own[1])
    for (path, found), other in zip(stats, jax.tree.leaves(plain[1]), strict=True):
        assert np.any(np.abs(found - other) > 1e-6), path
    assert np.abs(own[0] - plain[0]).max() > 1e-3


@pytest.mark.parametrize(
    "network",
    [Network(**SMALL), *map(other_network, BATCH_NORMALIZED)],
    ids=lambda n: n.architecture.value,
)
def test_every_batch_norm_of_a_network_is_told(network):
    told = {}

    def listen(call, arguments, options, context):
        if isinstance(context.module, normalization.BatchNorm):
            told[context.module.path] = context.module.own
        return call(*arguments, **options)

    model = models.make(network, detector=Detector(plane_shapes=SHAPES))
    with nn.intercept_methods(listen):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 3, *IMAGE)))
    planes = [own.planes for own in told.values()]
    meet = network.architecture is not Architecture.URESNET3D
    assert planes.count(PlaneAxis.FEATURES) == meet
    assert (PlaneAxis.NOWHERE in planes) is meet
