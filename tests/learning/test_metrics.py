"""The twenty metrics: by hand on a 2 x 2 image, and over minibatches."""

import jax.numpy as jnp
import numpy as np

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.learning import metrics


def by_name(prediction, label):
    """Metrics of one event whose planes are all the same."""
    arrays = [jnp.broadcast_to(jnp.array(a), (1, 3, 2, 2)) for a in (prediction, label)]
    return metrics.named(metrics.event_metrics(metrics.confusion(*arrays))[0])


def test_names():
    assert len(COSMIC_TAGGER.metric_names) == 20
    assert COSMIC_TAGGER.metric_names[0] == "Average/Total_Accuracy"
    assert COSMIC_TAGGER.metric_names[-1] == "plane2/mIoU"


def test_by_hand():
    values = by_name([[0, 1], [2, 1]], [[0, 1], [1, 2]])
    for group in ("Average", "plane0", "plane1", "plane2"):
        assert values[f"{group}/Total_Accuracy"] == 0.5
        np.testing.assert_allclose(values[f"{group}/Cosmic_IoU"], 1 / 3, rtol=1e-6)
        assert values[f"{group}/Neutrino_IoU"] == 0
        np.testing.assert_allclose(
            values[f"{group}/Non_Bkg_Accuracy"], 1 / 3, rtol=1e-6
        )
        np.testing.assert_allclose(values[f"{group}/mIoU"], 1 / 6, rtol=1e-6)


def test_class_neither_present_nor_predicted_counts_as_found():
    values = by_name([[0, 1], [0, 0]], [[0, 1], [0, 0]])
    assert values["Average/Neutrino_IoU"] == 1
    assert values["Average/mIoU"] == 1
    assert by_name([[0, 2], [0, 0]], [[0, 1], [0, 0]])["Average/Neutrino_IoU"] == 0


def test_event_without_labelled_pixels():
    values = by_name([[0, 1], [0, 0]], [[0, 0], [0, 0]])
    assert values["Average/Non_Bkg_Accuracy"] == 1
    assert values["Average/Total_Accuracy"] == 0.75


def test_planes_are_told_apart():
    label = jnp.zeros((1, 3, 2, 2), int)
    prediction = label.at[0, 1, 0, 0].set(2)
    values = metrics.named(
        metrics.event_metrics(metrics.confusion(prediction, label))[0]
    )
    accuracy = [values[f"plane{plane}/Total_Accuracy"] for plane in range(3)]
    assert accuracy == [1, 0.75, 1]
    np.testing.assert_allclose(values["Average/Total_Accuracy"], 2.75 / 3, rtol=1e-6)


def test_mean_does_not_depend_on_the_minibatch_size():
    random = np.random.default_rng(0)
    prediction, label = jnp.asarray(random.integers(0, 3, (2, 6, 3, 4, 4)))
    values = metrics.event_metrics(metrics.confusion(prediction, label))
    at_once = metrics.mean_of(*metrics.sum_metrics(values, jnp.ones(6)))
    for size in (1, 2, 3):
        parts = [
            metrics.event_metrics(
                metrics.confusion(prediction[i : i + size], label[i : i + size])
            )
            for i in range(0, 6, size)
        ]
        np.testing.assert_array_equal(jnp.concatenate(parts), values)
    mask = jnp.array([1.0, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(
        metrics.mean_of(*metrics.sum_metrics(values, mask)),
        values[:4].mean(0),
        rtol=1e-6,
    )
    assert (
        np.abs(metrics.mean_of(*metrics.sum_metrics(values, mask)) - at_once).max()
        > 1e-3
    )


def test_mean_over_no_event_is_finite():
    assert not np.any(
        metrics.mean_of(*metrics.sum_metrics(jnp.ones((2, 20)), jnp.zeros(2)))
    )


def test_confusion_by_hand():
    label = np.zeros((2, 3, 2, 2), np.uint8)
    prediction = np.zeros_like(label)
    label[1, 2] = [[1, 1], [2, 0]]
    prediction[1, 2] = [[1, 2], [2, 1]]
    counts = np.asarray(metrics.confusion(prediction, label))
    assert counts.shape == (2, 3, 3, 3)
    assert counts[1, 2].tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert counts[0, 0].tolist() == [[4, 0, 0], [0, 0, 0], [0, 0, 0]]
    names = dict(zip(COSMIC_TAGGER.confusion_names, counts[1].ravel(), strict=True))
    assert names["plane2/cosmic_as_neutrino"] == 1
    assert names["plane2/neutrino_as_cosmic"] == 0
