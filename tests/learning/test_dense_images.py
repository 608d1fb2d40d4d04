"""Dense images made on the device equal those of the host bit for bit."""

import h5py
import jax
import numpy as np
import pytest

from ctjax.data import order, pipeline, sources
from ctjax.data.minibatch import Form
from ctjax.data.sparse import capacity_for
from ctjax.learning import dense_images
from tests.support import larcv_fixtures

pytestmark = pytest.mark.usefixtures("loops")


def both_forms(source, size=2):
    """Pairs of minibatches of one source: dense and sparse."""
    entries = [
        list(order.sequential_entries(source.num_events, size)) for _ in range(2)
    ]
    with (
        pipeline.minibatches(source, entries[0], io_threads=2) as dense,
        pipeline.minibatches(
            source, entries[1], io_threads=2, form=Form.PIXELS
        ) as sparse,
    ):
        yield from zip(dense, sparse, strict=True)


def check_equal(source):
    make_dense = jax.jit(dense_images.densify, static_argnames="shape")
    for dense, sparse in both_forms(source):
        assert sparse.image is None and sparse.label is None
        assert dense.ids is None and dense.values is None and dense.labels is None
        ids = sparse.ids
        assert (np.diff(ids, axis=-1) > 0).all()
        image, label = make_dense(
            ids, sparse.values, sparse.labels, shape=source.image_shape
        )
        assert np.asarray(image).tobytes() == dense.image.tobytes()
        assert np.asarray(label).tobytes() == dense.label.tobytes()
        for name in ("entries", "event_ids", "mask"):
            np.testing.assert_array_equal(getattr(sparse, name), getattr(dense, name))


@pytest.mark.parametrize("downsample", [0, 1, 3])
@pytest.mark.parametrize("kind", ["sorted", "duplicates", "unsorted", "unlabelled"])
def test_small_files(tmp_path, kind, downsample):
    events = larcv_fixtures.make_events()
    random = np.random.default_rng(5)
    if kind in ("duplicates", "unsorted"):
        for planes in events:
            for plane, columns in enumerate(planes):
                count = len(columns[0])
                order = random.permutation(count)
                if kind == "duplicates" and count:
                    order = random.integers(0, count, count)
                planes[plane] = tuple(column[order] for column in columns)
    path = tmp_path / "f.h5"
    larcv_fixtures.write_larcv(path, events, with_label=kind != "unlabelled")
    with sources.open_source(file=path, downsample=downsample) as source:
        check_equal(source)


@pytest.mark.parametrize("downsample", [0, 1])
def test_labels_at_other_pixels(tmp_path, downsample):
    path = tmp_path / "f.h5"
    larcv_fixtures.write_larcv(path, larcv_fixtures.make_events(most=100))
    other = tmp_path / "other.h5"
    larcv_fixtures.write_larcv(other, larcv_fixtures.make_events(seed=1, most=100))

    with h5py.File(path, "r+") as file, h5py.File(other) as source:
        del file[larcv_fixtures.LABEL_GROUP]
        source.copy(larcv_fixtures.LABEL_GROUP, file["Data"])
    with sources.open_source(file=path, downsample=downsample) as source:
        check_equal(source)


def test_capacity_holds_and_seldom_changes():
    assert [capacity_for(n) for n in (0, 1024, 1025, 1537, 27000)] == [
        *[1024, 1024, 1536, 2048, 32768],
    ]
    sizes = {capacity_for(n) for n in range(30_000)}
    assert len(sizes) == 11
    assert all(capacity_for(n) >= n for n in range(5000))


@larcv_fixtures.needs_shared
@pytest.mark.parametrize("downsample", [0, 2])
def test_light_events(downsample):
    path = larcv_fixtures.shared("data/cosmic_tagging_light.h5")
    with sources.open_source(file=path, downsample=downsample) as source:
        check_equal(source)
