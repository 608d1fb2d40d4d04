"""The sparse UResNet: against images with masks, and by its properties."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax import models
from ctjax.config.choices import Connection, GrowthRate, LossBalanceScheme, Remat
from ctjax.config.choices import Normalization as Norm
from ctjax.config.heads import Classification, Vertex, active_heads
from ctjax.config.networks import UResNetSparse
from ctjax.learning import losses, sharding
from ctjax.learning.head_losses import make_head_loss
from ctjax.models import site_blocks
from ctjax.models.kernels import cpu
from tests.support.head_labels import random_labels
from tests.support.masked_uresnet import MaskedUResNet
from tests.support.site_minibatches import random_events, site_minibatch, to_images
from tests.support.small_networks import random_variables

SMALL = {
    "n_initial_filters": 3,
    "depth": 2,
    "blocks_per_layer": 1,
    "blocks_deepest_layer": 1,
    "blocks_final": 1,
    "bottleneck_deepest": 4,
    "filter_size_deepest": 3,
}
SHAPE = (8, 12)
VARIANTS = {
    "batch": {"normalization": Norm.BATCH},
    "none": {"normalization": Norm.NONE},
    "instance": {"normalization": Norm.INSTANCE},
    "plain": {
        "normalization": Norm.NONE,
        "residual": False,
        "bias": False,
        "connections": Connection.SUM,
        "growth_rate": GrowthRate.MULTIPLICATIVE,
        "filter_size_deepest": 5,
    },
    "unconnected": {
        "connections": Connection.NONE,
        "residual": False,
        "normalization": Norm.BATCH,
        "blocks_final": 0,
    },
}
"""Options of the networks that are compared."""


SHALLOW = {"depth": 1, "blocks_per_layer": 0, "blocks_final": 0}
"""Changes to the networks that are always compared, which compile sooner."""


def network_of(name, changes):
    return UResNetSparse(**(SMALL | VARIANTS[name] | changes))


def some_events(kind, seed=1):
    """Charges, classes and sites of two events of a kind."""
    charge, label, is_site = random_events(SHAPE, 2, seed)
    if kind == "empty plane":
        is_site[0, 1] = is_site[1, :2] = False
    elif kind == "one pixel":
        is_site[:] = False
        is_site[0, 2, 3, 5] = True
    elif kind == "full":
        is_site[:] = True
    elif kind == "borders":
        is_site[:, :, 1:-1, 1:-1] = False
        is_site[:, :, [0, -1]] = is_site[..., [0, -1]] = True
    charge = np.where(
        is_site, np.random.default_rng(seed).normal(1, 1, charge.shape), 0
    )
    return charge.astype(np.float32), label, is_site


def compare(network, kind):
    """Logits, statistics, loss and gradients of both forms."""
    variables = random_variables(network)
    charge, label, is_site = some_events(kind)
    minibatch, ids = site_minibatch(charge, label, is_site, network)
    sites = jax.tree.map(jnp.asarray, minibatch.sites)
    loss_fn = losses.make_loss(LossBalanceScheme.LIGHT)
    model = models.make(network)
    batch_stats = variables.get("batch_stats", {})

    def of_sites(params):
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            sites,
            train=True,
            mutable=["batch_stats"],
        )
        loss = loss_fn(logits, sites.label, minibatch.mask, sites.charge, sites)
        return loss, (logits, updated.get("batch_stats", {}))

    def of_images(params):
        masked = MaskedUResNet(
            network, {"params": params, "batch_stats": batch_stats}, train=True
        )
        images = (charge.reshape(-1, *SHAPE), is_site.reshape(-1, *SHAPE))
        logits = masked(*images).reshape(*charge.shape, 3)
        return loss_fn(logits, label, minibatch.mask), (logits, masked.updated)

    def differentiated(function):
        return jax.jit(jax.value_and_grad(function, has_aux=True))

    params = variables["params"]
    (loss, (logits, stats)), grads = differentiated(of_sites)(params)
    expected = differentiated(of_images)(params)
    (expected_loss, (expected_logits, expected_stats)), expected_grads = expected
    found = to_images(np.asarray(logits), sites, ids, SHAPE)
    return (
        (found, np.asarray(expected_logits)),
        (loss, expected_loss),
        (grads, expected_grads),
        (stats, expected_stats),
    )


def assert_close(found, expected, tolerance=1e-5):
    largest = max(float(np.abs(expected).max()), 1e-2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * largest)


def assert_same_function(network, kind):
    logits, loss, grads, stats = compare(network, kind)
    assert_close(*logits)
    assert_close(*loss)
    jax.tree.map(assert_close, *grads)
    flat = jax.tree_util.tree_leaves_with_path(stats[0])
    assert len(flat) == 2 * len(stats[1])
    for path, value in flat:
        *where, statistic = [key.key for key in path]
        assert_close(value, stats[1]["/".join(where)][statistic])


@pytest.mark.parametrize(
    ("name", "kind"), [("batch", "random"), ("none", "empty plane")]
)
def test_it_is_the_network_of_masked_images(name, kind):
    assert_same_function(network_of(name, SHALLOW), kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, "random") for name in VARIANTS],
        *[("batch", kind) for kind in ("empty plane", "one pixel", "full", "borders")],
        ("instance", "empty plane"),
        ("none", "one pixel"),
    ],
)
def test_it_is_the_network_of_masked_images_at_all_options(name, kind):
    assert_same_function(network_of(name, {}), kind)


HEAD = {"active": True, "n_filters": 3, "n_layers": 1, "detach": False}


def with_heads(name, depth=1, **changes):
    """Options of a network with both heads."""
    heads = {"classification": Classification(**HEAD)}
    heads["vertex"] = Vertex(**HEAD, depth=depth)
    return network_of(name, {"blocks_per_layer": 0, **heads, **changes})


def compare_heads(network, kind):
    """What heads say of both forms, statistics and gradients of a sum of it."""
    variables = random_variables(network)
    charge, label, is_site = some_events(kind)
    minibatch, _ = site_minibatch(charge, label, is_site, network)
    sites = jax.tree.map(jnp.asarray, minibatch.sites)
    model, params = models.make(network), variables["params"]
    batch_stats = variables.get("batch_stats", {})

    def total(event, vertex):
        return jnp.sum(jnp.sin(event)) + jnp.mean(jnp.sin(vertex))

    def of_sites(params):
        outputs, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            sites,
            train=True,
            mutable=["batch_stats"],
        )
        found = outputs.event, outputs.vertex
        return total(*found), (found, updated.get("batch_stats", {}))

    def of_images(params):
        variables = {"params": params, "batch_stats": batch_stats}
        masked = MaskedUResNet(network, variables, train=True)
        masked(charge.reshape(-1, *SHAPE), jnp.asarray(is_site.reshape(-1, *SHAPE)))
        found = masked.event_scores(), masked.vertex_scores()
        return total(*found), (found, masked.updated)

    return [
        jax.jit(jax.value_and_grad(function, has_aux=True))(params)
        for function in (of_sites, of_images)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "changes"),
    [
        ("batch", "random", {}),
        ("none", "empty plane", {"depth": 0}),
        ("instance", "one pixel", {}),
        ("plain", "random", {}),
    ],
)
def test_heads_are_those_of_masked_images(name, kind, changes):
    found, expected = compare_heads(with_heads(name, **changes), kind)
    (_, ((event, vertex), stats)), grads = found
    (_, ((expected_event, expected_vertex), expected_stats)), expected_grads = expected
    assert event.shape == (2, 4) and event.dtype == vertex.dtype == jnp.float32
    assert_close(event, expected_event)
    assert_close(vertex, expected_vertex)
    jax.tree.map(functools.partial(assert_close, tolerance=5e-5), grads, expected_grads)
    assert max(abs(leaf).max() for leaf in jax.tree.leaves(grads["net_core"])) > 1e-3
    for path, value in jax.tree_util.tree_leaves_with_path(stats):
        *where, statistic = [key.key for key in path]
        assert_close(value, expected_stats["/".join(where)][statistic])


@pytest.mark.slow
def test_a_head_that_is_detached_teaches_the_network_nothing():
    network = with_heads("none")
    for name in ("classification", "vertex"):
        head = dataclasses.replace(getattr(network, name), detach=True)
        network = dataclasses.replace(network, **{name: head})
    (_, grads), _ = compare_heads(network, "random")
    for name, tree in grads.items():
        size = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(tree))
        own = name.startswith(("classifier", "vertex")) or name.count("bottleneck_")
        assert (size > 0) == bool(own), name


@pytest.mark.slow
def test_an_event_without_a_site_and_cells_without_one():
    """Scores are finite, no class is likelier, and no weight has a gradient of them."""
    network = with_heads("none")
    charge, label, _ = some_events("random")
    is_site = np.zeros(charge.shape, bool)
    minibatch, _ = site_minibatch(charge, label, is_site, network)
    active, model = active_heads(network), models.make(network)
    head_loss = make_head_loss(active)
    labels = random_labels(2, (4, 6))

    @jax.jit
    def parts(params):
        outputs = model.apply({"params": params}, minibatch.sites, train=True)
        return sum(head_loss(outputs, labels, jnp.ones(2)).values()), outputs

    params = random_variables(network)["params"]
    (loss, outputs), grads = jax.value_and_grad(parts, has_aux=True)(params)
    np.testing.assert_array_equal(outputs.event, np.zeros((2, 4)))
    assert outputs.vertex.shape == (2, 3, 4, 6, 3)
    cells = np.asarray(outputs.vertex).reshape(-1, 3)
    np.testing.assert_array_equal(cells, np.tile(np.float32([-20, 0, 0]), (144, 1)))
    assert 1 < loss < 10 and jnp.isfinite(loss)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
def test_heads_of_several_parts_are_those_of_each():
    network = with_heads("batch")
    variables, model = random_variables(network), models.make(network)
    events = random_events(SHAPE, 4, seed=2)
    apply = jax.jit(model.apply)
    whole, _ = site_minibatch(*events, network, parts=2)
    found = apply(variables, whole.sites)
    assert found.event.shape == (4, 4) and found.vertex.shape == (4, 3, 4, 6, 3)
    for part in range(2):
        own = slice(2 * part, 2 * part + 2)
        minibatch, _ = site_minibatch(*(array[own] for array in events), network)
        expected = apply(variables, minibatch.sites)
        assert_close(found.event[own], expected.event)
        assert_close(found.vertex[own], expected.vertex)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["instance", "plain"])
def test_gradient_is_the_slope_of_the_loss(name):
    """Central differences along the gradient of every block, and along other lines."""
    network = network_of(name, {})
    params = random_variables(network)["params"]
    charge, label, is_site = some_events("random")
    minibatch, _ = site_minibatch(charge, label, is_site, network)
    sites = jax.tree.map(jnp.asarray, minibatch.sites)
    loss_fn = losses.make_loss(LossBalanceScheme.LIGHT)
    model = models.make(network)
    flat, unflatten = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    @jax.value_and_grad
    def loss(flat):
        logits = model.apply({"params": unflatten(flat)}, sites, train=True)
        return loss_fn(logits, sites.label, minibatch.mask, sites.charge, sites)

    grad = np.asarray(loss(flat)[1])
    random = np.random.default_rng(3)
    lines = [grad * random.uniform(0, 2, len(grad)) for _ in range(4)]
    blocks = {path[:3] for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    for block in blocks:
        own = jax.tree_util.tree_map_with_path(
            lambda path, x, block=block: x * (path[:3] == block), unflatten(grad)
        )
        lines.append(np.asarray(jax.flatten_util.ravel_pytree(own)[0]))
    assert len(lines) > 10
    for line in lines:
        # A bias before a normalization has no gradient but roundings.
        unit = line / max(float(np.linalg.norm(line)), 1e-6)
        ahead, behind = (float(loss(flat + size * unit)[0]) for size in (1e-3, -1e-3))
        expected = pytest.approx(float(unit @ grad), rel=1e-2, abs=1e-3)
        assert (ahead - behind) / 2e-3 == expected


def series_of_blocks(num_blocks, width):
    """Residual blocks with batch normalization, and the loss of a list of sites."""
    block = functools.partial(
        site_blocks.SiteBlock,
        features=width,
        bias=False,
        normalization=Norm.BATCH,
    )
    series = site_blocks.SiteSeries(block, num_blocks, True, Remat.NONE)

    def apply(variables, x, image, neighbours):
        around = site_blocks.around(neighbours, site_blocks.SiteImages(image, 3))
        return series.apply(variables, x, around, True, mutable=["batch_stats"])[0]

    def init(x, image, neighbours):
        around = site_blocks.around(neighbours, site_blocks.SiteImages(image, 3))
        return series.init(jax.random.key(0), x, around, True)

    def loss(variables, *sites):
        return jnp.sum(jnp.square(apply(variables, *sites)))

    return init, loss


@pytest.mark.skipif(not cpu.are_usable(), reason="XLA's own convolutions keep more")
def test_backward_pass_keeps_two_arrays_a_convolution():
    """Its output and what comes of that: the centred values are computed anew."""
    sites, width, num_blocks = 8192, 16, 4
    init, loss = series_of_blocks(num_blocks, width)
    arrays = (
        jax.ShapeDtypeStruct((sites, width), jnp.float32),
        jax.ShapeDtypeStruct((sites,), jnp.int32),
        jax.ShapeDtypeStruct((sites, 9), jnp.int32),
    )
    variables = jax.eval_shape(init, *arrays)
    gradient = jax.jit(
        jax.grad(loss), compiler_options=sharding._compiler_options("cpu")
    )
    memory = gradient.lower(variables, *arrays).compile().memory_analysis()
    kept = memory.temp_size_in_bytes / (4 * sites * width)
    convolutions = 2 * num_blocks
    assert kept < 2 * convolutions + 4
