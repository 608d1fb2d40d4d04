"""Networks loaded from all kinds of weights, and what they predict."""

import logging

import h5py
import jax
import numpy as np
import pytest

import ctjax
from ctjax.base.errors import UserError
from ctjax.commands import export_weights
from ctjax.outputs import checkpoint
from tests.support import larcv_fixtures, small_runs
from tests.support.small_runs import SHAPE

pytestmark = pytest.mark.xdist_group("runs_of_the_api")

SPARSE = {
    "network__architecture": "uresnet_sparse",
    "network__depth": 1,
    "network__n_initial_filters": 2,
    "network__normalization": "none",
    "network__blocks_per_layer": 0,
    "network__blocks_deepest_layer": 1,
    "network__blocks_final": 0,
    "network__bottleneck_deepest": 3,
    "network__filter_size_deepest": 3,
}
# By their seed, the initial parameters of this one give pixels of all three classes.
DENSE = {"run__seed": 3}
NETWORKS = {"images": DENSE, "sites": SPARSE}
"""Small networks, by what they compute on."""


@pytest.fixture(
    scope="module", params=["images", pytest.param("sites", marks=pytest.mark.slow)]
)
def network(request):
    return NETWORKS[request.param]


@pytest.fixture(scope="module")
def tagger(runs, network):
    return ctjax.load(runs.train(**network).folder)


@pytest.fixture(scope="module")
def dense_tagger(runs):
    return ctjax.load(runs.train(**DENSE).folder)


@pytest.fixture
def events(runs):
    with ctjax.open(runs.file) as opened:
        yield opened


def contents(path):
    """Every table and attribute of a file of predictions, but for the date."""
    with h5py.File(path) as file:
        tables = {}
        file.visititems(
            lambda name, item: (
                tables.update({name: item[...]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
        return tables, {k: v for k, v in file.attrs.items() if k != "date"}


def assert_same_file(found, expected):
    tables, attributes = contents(found)
    others, other_attributes = contents(expected)
    assert attributes == other_attributes
    assert tables.keys() == others.keys()
    for name, table in tables.items():
        for member in table.dtype.names:
            np.testing.assert_array_equal(table[member], others[name][member], name)


@pytest.mark.parametrize("masked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_predictions_are_those_of_infer_bit_for_bit(
    runs, network, events, tmp_path, masked
):
    """On all devices, in minibatches of the same size, the last one with a gap."""
    run = runs.infer(mode__mask_empty_pixels=masked, **network)
    tagger = ctjax.load(
        run.config.mode.weights_location, mask_empty_pixels=masked, precision="float32"
    )
    path = tmp_path / "predictions.h5"
    path.write_text("of before")
    ctjax.save_predictions(path, events, tagger, batch_size=4)
    assert_same_file(path, run.folder / "predictions.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.h5"]


def stored(run, product, place, fill):
    """What predictions.h5 has of an event, [P, H, W], and `fill` elsewhere."""
    image = np.full((3, *SHAPE), fill, np.float32)
    for plane, pixels in enumerate(run.predictions(product)[place]):
        columns, rows = np.divmod(pixels["id"].astype(int), SHAPE[0])
        image[plane, rows, columns] = pixels["value"]
    return image


@pytest.mark.slow
def test_scores_are_those_of_infer(runs, network, tagger, events):
    """Alone, in minibatches and as arrays, within rounding."""
    run = runs.infer(**network)
    charge = np.stack([event.charge for event in events])
    of_arrays = tagger.predict(charge, batch_size=3)
    classes = tagger.classify(charge.astype(np.float64))
    assert of_arrays.dtype == np.float32 and classes.dtype == np.uint8
    assert of_arrays.shape == (8, 3, *SHAPE, 3) and classes.shape == (8, 3, *SHAPE)
    assert len(np.unique(classes)) > 1
    np.testing.assert_array_equal(classes, of_arrays.argmax(-1))
    np.testing.assert_allclose(of_arrays.sum(-1), 1, atol=1e-6)
    for place, (event, scores) in enumerate(tagger.iterate(events, batch_size=3)):
        assert event.entry == place
        for number, product in ((1, "cosmic_prediction"), (2, "neutrino_prediction")):
            expected = stored(run, product, place, 0)
            np.testing.assert_allclose(scores[..., number], expected, atol=1e-6)
        expected = stored(run, "cosmicseg_prediction", place, 0)
        np.testing.assert_array_equal(classes[place], expected)
        np.testing.assert_allclose(of_arrays[place], scores, atol=1e-6)
        if place in (0, 5):
            alone = tagger.predict(event.charge)
            np.testing.assert_allclose(alone, scores, atol=1e-6)
            np.testing.assert_allclose(tagger.predict(event), scores, atol=1e-6)
    assert place == 7


@pytest.mark.slow
def test_pixels_without_charge_are_as_asked_for(runs, events):
    """Those without a site have the scores of three equal logits."""
    event = events[0]
    is_empty = event.charge == 0
    folder = runs.train(**SPARSE).folder
    scores = ctjax.load(folder).predict(event.charge)
    np.testing.assert_array_equal(scores[is_empty], [[1, 0, 0]] * is_empty.sum())
    tagger = ctjax.load(folder, mask_empty_pixels=False)
    unmasked = tagger.predict(event)
    np.testing.assert_allclose(unmasked[is_empty], 1 / 3)
    np.testing.assert_array_equal(unmasked[~is_empty], scores[~is_empty])
    np.testing.assert_array_equal(tagger.classify(event)[is_empty], 0)


@pytest.mark.slow
def test_images_are_padded_for_the_network(tagger, events):
    """Of 15 x 23 pixels as those of 16 x 24 whose last row and column are empty."""
    charge = events[0].charge.copy()
    charge[:, -1], charge[:, :, -1] = 0, 0
    expected = tagger.predict(charge)[:, :-1, :-1]
    found = tagger.predict(charge[:, :-1, :-1])
    assert found.shape == (3, 15, 23, 3)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_files_of_odd_images_are_padded_too(dense_tagger, tmp_path):
    shape = (15, 23)
    listed = larcv_fixtures.make_events(2, shape)
    path = larcv_fixtures.write_larcv(tmp_path / "odd.h5", listed, shape)
    events = ctjax.open(path)
    saved = tmp_path / "saved.h5"
    ctjax.save_predictions(saved, events[1:], dense_tagger)
    (again,) = ctjax.open(saved)
    np.testing.assert_array_equal(again.charge, events[1].charge)
    np.testing.assert_array_equal(again.label, events[1].label)


def test_a_shape_is_compiled_once(runs, events, caplog):
    caplog.set_level(logging.INFO, "ctjax")
    tagger = ctjax.load(runs.train(**DENSE).folder)
    for charge in (events[0].charge, events[1].charge):
        tagger.predict(charge)
    list(tagger.iterate(events[:5], batch_size=4))
    list(tagger.iterate(events[3:4], batch_size=4))
    started = [m for m in caplog.messages if m.startswith("Compiling the prediction")]
    assert len(started) == 2


@pytest.mark.slow
def test_what_a_checkpoint_was_trained_with_is_its_own(runs, events):
    """Its images are halved and transformed as those of the training."""
    run = runs.train(data__img_transform=True, data__downsample=1, **DENSE)
    config = ctjax.load(run.folder).config
    assert config.network == run.config.network
    assert config.data.img_transform and config.mode.mask_empty_pixels
    tagger = ctjax.load(run.folder)
    halved = ctjax.open(runs.file, downsample=1)
    assert tagger.predict(halved[0]).shape == (3, 8, 12, 3)
    for refused in (
        lambda: tagger.predict(events[0]),
        lambda: list(tagger.iterate(events)),
        lambda: ctjax.save_predictions("never.h5", events, tagger),
        lambda: ctjax.load(run.folder, img_transform=False),
    ):
        with pytest.raises(UserError, match="trained with other images"):
            refused()
    raw = ctjax.load(run.folder, img_transform=False, allow_other_images=True)
    scores, charge = raw.predict(events[0]), events[0].charge
    logs = np.sign(charge) * np.log1p(np.abs(charge))
    np.testing.assert_allclose(raw.predict(logs), tagger.predict(charge), atol=1e-5)
    assert np.abs(scores - tagger.predict(charge)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "step"), [(".npz", 0), (".safetensors", 2)])
def test_weights_of_others_need_a_configuration(
    runs, events, dense_tagger, tmp_path, kind, step
):
    run = runs.train(**DENSE)
    weights, file = tmp_path / f"weights{kind}", tmp_path / "small.py"
    export_weights.export_weights(str(run.folder), str(weights))
    values = {k: v for k, v in small_runs.FIELDS.items() if k.startswith("network__")}
    network = {k.removeprefix("network__"): v for k, v in values.items()}
    network["n_initial_filters"] = run.config.network.n_initial_filters
    values = {"network": network, "data": {"downsample": 0}}
    file.write_text(f"def get_config():\n    return {values}\n")
    with pytest.raises(UserError, match="expected config=NAME, such as"):
        ctjax.load(weights)
    with pytest.raises(UserError, match="no such file"):
        ctjax.load(weights, config="nothing")
    with pytest.raises(UserError, match="network"):
        ctjax.load(weights, config="uresnet")
    with pytest.raises(UserError, match="another network"):
        ctjax.load(run.folder, config="uresnet")
    tagger = ctjax.load(weights, config=file)
    assert f"weights{kind}, step {step}>" in repr(tagger)
    expected = dense_tagger.predict(events[0])
    np.testing.assert_array_equal(tagger.predict(events[0]), expected)


def test_one_step_can_be_asked_for(runs, dense_tagger):
    run = runs.train(**DENSE)
    assert dense_tagger.step == 2
    tagger = ctjax.load(run.folder / "checkpoints" / "2")
    assert tagger.step == 2 and "step 2>" in repr(tagger)
    with pytest.raises(UserError, match="expected"):
        ctjax.load(run.folder / "checkpoints" / "1")
    with pytest.raises(UserError, match=r"nothing: found nothing, expected a run"):
        ctjax.load("nothing")


def test_weights_that_are_no_numbers_are_refused(runs, dense_tagger, tmp_path):
    variables = jax.tree.map(
        lambda leaf: np.full(leaf.shape, np.nan, np.float32), dense_tagger.variables
    )
    checkpoint.save_weights(str(tmp_path), variables, 1, runs.train(**DENSE).config)
    with pytest.raises(UserError, match="not finite"):
        ctjax.load(tmp_path)


def image(value=1.0, shape=(3, 16, 24), dtype=np.float32):
    return np.full(shape, value, dtype)


@pytest.mark.parametrize(
    ("charge", "words"),
    [
        (image(np.nan), "charge: expected finite numbers, got nan at [0, 0, 0]"),
        (image(1e300, dtype=float), "charge: expected finite numbers, got inf at"),
        (image(shape=(2, 16, 24)), "expected [3, H, W] or [B, 3, H, W], got [2, 16"),
        (image(shape=(16, 24)), "got [16, 24]"),
        (image(shape=(3, 16, 0)), "got [3, 16, 0]"),
        (image(shape=(0, 3, 16, 24)), "got [0, 3, 16, 24]"),
        (image(dtype=complex), "charge: expected real numbers, got complex128"),
        (image(dtype=bool), "charge: expected real numbers, got bool"),
        ("events.h5", "charge: expected real numbers, got <U9"),
        (None, "charge: expected real numbers, got object"),
        (image(3e38), "class scores that are not finite, expected numbers: entry 0"),
    ],
)
def test_what_is_no_event_is_refused(dense_tagger, charge, words):
    for ask in (dense_tagger.predict, dense_tagger.classify):
        with pytest.raises(UserError) as caught:
            ask(charge)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_are_no_events_is_refused(dense_tagger, runs, events, tmp_path):
    with pytest.raises(UserError, match=r"expected events of ctjax\.open, got ndarray"):
        next(dense_tagger.iterate(image()))
    for size in (0, 1.5, True):
        with pytest.raises(UserError, match="batch_size: expected at least 1"):
            next(dense_tagger.iterate(events, batch_size=size))
        with pytest.raises(UserError, match="batch_size: expected at least 1"):
            dense_tagger.predict(image(), batch_size=size)
    with pytest.raises(UserError, match="found no events to predict"):
        ctjax.save_predictions(tmp_path / "a.h5", events[:0], dense_tagger)
    with pytest.raises(UserError, match="a file of the events"):
        ctjax.save_predictions(runs.file, events, dense_tagger)
    with pytest.raises(OSError, match="nowhere"):
        ctjax.save_predictions(tmp_path / "nowhere" / "a.h5", events, dense_tagger)
    assert list(dense_tagger.iterate(events[:0])) == []
    assert list(tmp_path.iterdir()) == []
    events.close()
    with pytest.raises(UserError, match="closed"):
        next(dense_tagger.iterate(events))
