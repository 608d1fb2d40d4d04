"""The losses, metrics and positions of a network's heads, by hand and on devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctjax import models
from ctjax.base.detector import Detector
from ctjax.base.head_labels import HeadLabels, VertexLabel
from ctjax.config.architecture import Architecture
from ctjax.config.choices import Normalization
from ctjax.config.heads import (
    ActiveHeads,
    Classification,
    Vertex,
    active_heads,
    loss_names,
    metric_names,
)
from ctjax.config.networks import SECTIONS
from ctjax.learning import head_metrics, head_steps, heads, sharding, steps
from ctjax.learning.compiled import compile_eval_step, compile_train_step
from ctjax.learning.head_losses import make_head_loss
from ctjax.learning.heads import Outputs
from ctjax.learning.state import make_state
from tests.support.head_labels import random_labels
from tests.support.site_minibatches import site_minibatch
from tests.support.small_networks import (
    OTHERS,
    nobody_stops,
    random_minibatch,
    random_variables,
    step_options,
)

BOTH = ActiveHeads(
    Classification(active=True, weight=2.0),
    Vertex(active=True, weight=0.5, l_det=0.2, l_coord=4.0),
    halvings=1,
)
ONE = jnp.ones(1)


def outputs_of(event=None, vertex=None, planes=3, shape=(4, 4)):
    """Outputs for images; scores [4] of an event, [h, w, 3] of each plane."""
    return Outputs(
        jnp.zeros((1, planes, *shape, 3)),
        None if event is None else jnp.asarray(event, jnp.float32)[None],
        None
        if vertex is None
        else jnp.broadcast_to(
            jnp.asarray(vertex, jnp.float32)[None, None],
            (1, planes, *np.shape(vertex)),
        ),
    )


def labels_of(event=1, cell=(0, 1), planes=3):
    """The vertex of every plane at (0.25, 0.5) of a cell of 10 x 20 cm."""
    cells = np.full((1, planes, 2), cell, np.int32)
    offset = np.full((1, planes, 2), (0.25, 0.5), np.float32)
    size = np.full((1, planes, 2), (10.0, 20.0), np.float32)
    position = np.where(cells < 0, np.nan, 5 + (cells + offset) * size)
    vertex = VertexLabel(position, cells, offset, np.full_like(offset, 5), size)
    return HeadLabels(np.array([event], np.int32), vertex)


def test_names():
    assert metric_names(BOTH, 2) == (
        "Average/EventLabel",
        *("Average/VertexDetection", "Average/VertexResolution"),
        *("plane0/VertexDetection", "plane0/VertexResolution"),
        *("plane1/VertexDetection", "plane1/VertexResolution"),
    )
    assert loss_names(BOTH) == (
        *("loss/segmentation", "loss/event_label"),
        *("loss/vertex/detection", "loss/vertex/localization", "loss/total"),
    )
    assert metric_names(ActiveHeads(), 3) == loss_names(ActiveHeads()) == ()


def test_losses_by_hand():
    vertex = np.zeros((2, 2, 3))
    vertex[0, 1, 0] = np.log(3)  # a probability of 3/4
    found = make_head_loss(BOTH)(outputs_of([0, 0, 0, 0], vertex), labels_of(), ONE)
    assert found["event_label"] == pytest.approx(2 * np.log(4), rel=1e-6)
    cells = 3 * 0.25 * np.log(2) + (1 / 16) * np.log(4 / 3)
    assert found["vertex/detection"] == pytest.approx(3 * 0.5 * 0.2 * cells, rel=1e-6)
    # Offsets of (1/2, 1/2) where (1/4, 1/2) is right, in three planes.
    assert found["vertex/localization"] == pytest.approx(3 * 0.5 * 4 * 3 / 16, rel=1e-6)


def test_events_that_do_not_count_and_those_without_a_vertex():
    vertex = np.zeros((2, 2, 3))
    head_loss = make_head_loss(BOTH)
    outputs = outputs_of([1, 0, 0, 0], vertex)
    none = head_loss(outputs, labels_of(), jnp.zeros(1))
    assert [float(part) for part in none.values()] == [0, 0, 0]
    found = head_loss(outputs, labels_of(event=-1, cell=(-1, -1)), ONE)
    assert found["event_label"] == found["vertex/localization"] == 0
    assert found["vertex/detection"] == pytest.approx(0.3 * np.log(2), rel=1e-6)


def test_sure_and_wrong_has_a_loss_and_a_gradient():
    def loss(scale):
        outputs = outputs_of([0, 0, 0, 0], scale * jnp.ones((2, 2, 3)))
        return make_head_loss(BOTH)(outputs, labels_of(), ONE)["vertex/detection"]

    value, slope = jax.value_and_grad(loss)(1e4)
    assert value == pytest.approx(0.3 * 3 * 100)  # logarithms end at -100
    assert np.isfinite(slope)


def test_positions_and_metrics_by_hand():
    vertex = np.zeros((2, 2, 3))
    vertex[0, 1] = 2, 0, np.log(3)
    outputs, labels = outputs_of([0, 1, 0, 0], vertex), labels_of()
    found = heads.locate_vertex(outputs.vertex, labels.vertex)
    expected = [5 + 0.5 * 10, 5 + 1.75 * 20, 1 / (1 + np.exp(-2))]
    np.testing.assert_allclose(found[0], [expected] * 3, rtol=1e-6)
    distance = np.hypot(2.5, 5)
    values = head_metrics.event_metrics(outputs, labels)[0]
    np.testing.assert_allclose(values, [1, *[1, distance] * 4], rtol=1e-5)
    # Without a vertex the first cell is the right one, and there is no distance.
    values = head_metrics.event_metrics(outputs, labels_of(3, (-1, -1)))[0]
    np.testing.assert_array_equal(values, [0, *[0, np.nan] * 4])


def test_metrics_of_what_is_not_known():
    """No number, where without a vertex the first cell is the right one."""
    outputs = outputs_of([0, 1, 0, 0], np.zeros((4, 4, 3)))
    unknown = head_metrics.event_metrics(outputs, heads.unknown_label(outputs, 0))
    assert unknown.shape == (1, 9) and np.isnan(unknown).all()


def test_positions_of_what_is_not_known_are_in_pixels():
    vertex = np.zeros((2, 2, 3))
    vertex[1, 0, 0] = 5
    outputs = outputs_of(vertex=vertex)
    label = heads.unknown_label(outputs, 3).vertex
    found = heads.locate_vertex(outputs.vertex, label)
    # The middle of a cell of 8 x 8 pixels, the second from the top.
    np.testing.assert_allclose(found[0, :, :2], [[12, 4]] * 3)


def test_means_leave_out_what_is_not_known():
    values = jnp.array([[1.0, 4.0], [0.0, np.nan], [1.0, 6.0], [1.0, 8.0]])
    sums = head_metrics.sum_known(values, jnp.array([1.0, 1.0, 1.0, 0.0]))
    np.testing.assert_allclose(head_metrics.mean_of(*sums), [2 / 3, 5])
    empty = head_metrics.sum_known(values[1:2], ONE)
    assert np.isnan(head_metrics.mean_of(*empty)[1])


def test_cells_behind_a_smaller_plane_do_not_count():
    detector = Detector(num_planes=2, plane_shapes=((4, 4), (2, 4)))
    vertex = np.zeros((2, 2, 3))
    vertex[1, 1, 0] = 9
    outputs = outputs_of(vertex=vertex, planes=2)
    is_own = heads.own_cells(outputs, detector, 1)
    assert is_own.tolist() == [[[True] * 2] * 2, [[True] * 2, [False] * 2]]
    labels = labels_of(planes=2)
    found = heads.locate_vertex(outputs.vertex, labels.vertex, is_own)
    np.testing.assert_allclose(found[0, :, 0], [5 + 1.5 * 10, 5 + 0.5 * 10])
    alone = ActiveHeads(None, BOTH.vertex, halvings=1)
    with_all = make_head_loss(alone)(outputs, labels, ONE)["vertex/detection"]
    own = make_head_loss(alone, detector=detector)(outputs, labels, ONE)
    assert own["vertex/detection"] < with_all / 1.9


SMALL = {"n_filters": 3, "n_layers": 1, "active": True, "detach": False}


ON_IMAGES = Architecture.URESNET_V21
ON_SITES = Architecture.URESNET_SPARSE
BOTH_FORMS = pytest.mark.parametrize(
    "form", [ON_IMAGES, ON_SITES], ids=lambda form: form.value
)


def small_network(form=ON_IMAGES, **changes):
    """A network with both heads whose losses matter to all parameters."""
    depth = 0 if form is ON_SITES else 1  # sites have no map of the whole image
    fields = OTHERS[form] | {
        "classification": Classification(**SMALL, weight=1.0),
        "vertex": Vertex(**SMALL, depth=depth, l_det=1.0, l_coord=1.0),
    }
    return SECTIONS[form](**fields | changes)


def made_minibatch(network, mask, parts):
    """Random events with labels of the heads, as images or as that many lists."""
    minibatch, mask = random_minibatch((8, 16), len(mask)), np.array(mask, np.float32)
    halvings = active_heads(network).halvings
    labels = random_labels(len(mask), (8 >> halvings, 16 >> halvings))
    if isinstance(network, SECTIONS[ON_SITES]):
        events = minibatch.image, minibatch.label, minibatch.image != 0
        minibatch, _ = site_minibatch(*events, network, parts)
    return minibatch._replace(mask=mask, heads=labels)


def train_once(num_devices, mask, accumulation=1, **changes):
    """Parameters after a step of SGD, and the step's results."""
    network = small_network(**changes)
    axis = sharding.EVENT_AXIS
    model = models.make(network, axis_name=axis)
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    options = step_options((8, 16), axis_name=axis, accumulation=accumulation)
    options = dataclasses.replace(options, heads=active_heads(network))
    minibatch = made_minibatch(network, mask, num_devices * accumulation)
    rule = optax.sgd(0.01)
    step = steps.make_train_step(
        model=model, optimizer=rule, schedule=lambda step: 0.0, options=options
    )
    variables = {"batch_stats": {}, **random_variables(network)}
    state = sharding.replicate(make_state(variables, rule), mesh)
    arrays = sharding.distribute((minibatch, nobody_stops(minibatch)), mesh)
    state, results = compile_train_step(step, mesh)(state, *arrays)
    return state, results, (model, options, mesh, variables, arrays[0])


@pytest.mark.slow
@BOTH_FORMS
def test_a_step_of_several_devices_is_that_of_one(form):
    """An empty place, too, counts nowhere, wherever it is."""
    mask, none = (1, 1, 0, 1), Normalization.NONE
    one, results, _ = train_once(1, mask, form=form, normalization=none)
    two, shared, made = train_once(2, mask, form=form, normalization=none)
    np.testing.assert_allclose(results["loss_parts"], shared["loss_parts"], rtol=1e-5)
    assert results["loss_parts"][-1] == pytest.approx(float(results["loss"]))
    assert float(results["loss_parts"][:-1].sum()) == pytest.approx(
        float(results["loss"]), rel=1e-5
    )
    np.testing.assert_allclose(results["metrics"], shared["metrics"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        *(one.params, two.params),
    )
    model, options, mesh, variables, minibatch = made
    step = steps.make_eval_step(model=model, options=options, with_scores=False)
    compiled = compile_eval_step(step, mesh, heads=options.heads)
    found = compiled(sharding.replicate(variables, mesh), minibatch)
    assert found["event_score"].shape == (4, 4)
    np.testing.assert_allclose(found["event_score"].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found["event_label"], [0, 1, 2, 3])
    assert found["vertex"].shape == (4, 3, 3)
    label = np.asarray(found["vertex_label"])
    np.testing.assert_array_equal(label, minibatch.heads.vertex.position)
    assert np.isnan(label[3]).all() and found["metrics"].shape == (4, 20 + 9)
    means = head_steps.mean_over_events(found["metrics"], found["counted"], 20)
    np.testing.assert_allclose(means[20:], results["metrics"][20:], rtol=1e-3)


@pytest.mark.slow
@BOTH_FORMS
def test_accumulated_minibatches_average(form):
    none = {"form": form, "normalization": Normalization.NONE}
    _, both, _ = train_once(1, (1, 1, 1, 1), accumulation=2, **none)
    _, whole, _ = train_once(1, (1, 1, 1, 1), **none)
    parts, whole_parts = both["loss_parts"], whole["loss_parts"]
    # Detection is a mean over the events, localization a sum, halved by the average.
    assert float(parts[2]) == pytest.approx(float(whole_parts[2]), rel=1e-5)
    assert float(parts[3]) == pytest.approx(float(whole_parts[3]) / 2, rel=1e-5)
    np.testing.assert_allclose(both["metrics"], whole["metrics"], rtol=1e-5)
