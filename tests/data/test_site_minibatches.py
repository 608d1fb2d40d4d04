"""Minibatches as lists of sites: parts, padding, sizes, threads and memory."""

import copy
import logging

import numpy as np
import pytest

from ctjax.base.sites import Coarsening, Level, Sites
from ctjax.data import joined_sites, pipeline, site_minibatches, sources
from ctjax.data.larcv.file import LarcvFileError
from ctjax.data.minibatch import SiteForm
from tests.support import larcv_fixtures
from tests.support.listed_sites import assert_same, make_sites

FORM = SiteForm(depth=2, deepest_size=3)
NUM_PIXELS = larcv_fixtures.SHAPE[0] * larcv_fixtures.SHAPE[1]


@pytest.fixture
def path(tmp_path):
    events = larcv_fixtures.make_events(7)
    return str(larcv_fixtures.write_larcv(tmp_path / "good.h5", events))


@pytest.fixture
def source(path):
    with sources.open_source(file=path) as source:
        yield source


def read(source, entries, form=FORM, *, release=True, **options):
    """Copies of all minibatches."""
    with pipeline.minibatches(source, entries, form=form, **options) as reader:
        found = []
        for minibatch in reader:
            found.append(copy.deepcopy(minibatch))
            if release:
                reader.release(minibatch)
    return found


def event_of(sites, site_ids, number):
    """Takes one event out of a part, with places of its own for no site."""
    num_planes = 3
    masks = [level.image // num_planes == number for level in sites.levels[:-1]]
    masks.append(sites.levels[-1].image == number)
    first = [int(mask.argmax()) for mask in masks]
    count = [int(mask.sum()) for mask in masks]
    places = [len(mask) for mask in masks]

    def own(table, rows, of):
        of_event = table[masks[rows]]
        absent = of_event == places[of]
        own = np.where(absent, count[of], of_event - first[of])
        assert (absent | (own < count[of])).all()
        return own

    def own_place(step, level):
        factor = step.parts.shape[1]
        return step.place[masks[level]] - first[level + 1] * factor

    planes = [num_planes] * (len(masks) - 1) + [1]
    tree = Sites(
        sites.charge[masks[0]],
        sites.label[masks[0]],
        own(sites.wide, 0, 0),
        tuple(
            Level(
                level.image[masks[i]] - number * planes[i],
                own(level.neighbours, i, i),
            )
            for i, level in enumerate(sites.levels)
        ),
        tuple(
            Coarsening(own(step.parts, i + 1, i), own_place(step, i))
            for i, step in enumerate(sites.steps)
        ),
        sites.empty[number * num_planes : (number + 1) * num_planes],
    )
    return tree, site_ids[masks[0]]


def as_int32(tree):
    if isinstance(tree, tuple):
        return (
            type(tree)(*map(as_int32, tree))
            if hasattr(tree, "_fields")
            else tuple(map(as_int32, tree))
        )
    is_wide = tree is not None and tree.dtype == np.int64
    return tree.astype(np.int32) if is_wide else tree


def check_padding(sites, site_ids):
    """Looks at the places without a site."""
    num_images = len(sites.empty)
    places = [len(level.image) for level in sites.levels]
    ends = [num_images] * (len(places) - 1) + [num_images // 3]
    counts = [
        int((level.image < end).sum())
        for level, end in zip(sites.levels, ends, strict=True)
    ]
    for level, end, count in zip(sites.levels, ends, counts, strict=True):
        assert (np.diff(level.image) >= 0).all()
        assert (level.image[count:] == end).all()
        assert (level.neighbours[count:] == len(level.image)).all()
    assert (sites.wide[counts[0] :] == places[0]).all()
    assert not sites.charge[counts[0] :].any() and not sites.label[counts[0] :].any()
    assert (site_ids[counts[0] :] == NUM_PIXELS).all()
    for level, step in enumerate(sites.steps):
        assert (step.parts[counts[level + 1] :] == places[level]).all()
        assert (step.place[counts[level] :] == step.parts.size).all()
    return counts


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_events_of_every_part_are_those_of_the_source(source, parts, loops):
    form = SiteForm(depth=2, deepest_size=3, parts=parts)
    entries = [[6, 1, 1, 0], [-1, 3, -1, 2], [-1, -1, -1, -1], [4, 5, 6, -1]]
    for minibatch, expected in zip(read(source, entries, form), entries, strict=True):
        assert minibatch.entries.tolist() == expected
        assert minibatch.image is minibatch.ids is None
        assert minibatch.site_ids.shape == minibatch.sites.charge.shape
        size = 4 // parts
        for part in range(parts):
            sites = joined_sites.part_of(minibatch.sites, part)
            ids = minibatch.site_ids[part]
            assert len(sites.empty) == 3 * size
            counts = check_padding(sites, ids)
            of_part = expected[part * size : (part + 1) * size]
            total = np.zeros(len(counts), int)
            for number, entry in enumerate(of_part):
                found, found_ids = event_of(sites, ids, number)
                if entry == -1:
                    assert len(found_ids) == 0 and not found.empty.any()
                    continue
                event, event_ids = event_alone(source, entry)
                np.testing.assert_array_equal(found_ids, event_ids)
                assert_same(as_int32(found), event)
                assert (
                    found.empty.sum(1) + np.bincount(event.levels[0].image, minlength=3)
                    == NUM_PIXELS
                ).all()
                total += [len(level.image) for level in event.levels]
            assert counts == total.tolist()


def test_sites_are_the_pixels_of_the_dense_image(source):
    (sites,), (dense,) = read(source, [[3, 1]]), dense_images(source, [[3, 1]])
    image, label = np.zeros_like(dense.image), np.zeros_like(dense.label)
    part = joined_sites.part_of(sites.sites, 0)
    is_site = part.levels[0].image < 6
    column, row = np.divmod(sites.site_ids[0][is_site], image.shape[2])
    at = (*np.divmod(part.levels[0].image[is_site], 3), row, column)
    image[at], label[at] = part.charge[is_site], part.label[is_site]
    np.testing.assert_array_equal(image, dense.image)
    np.testing.assert_array_equal(label, dense.label)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("parts", [1, 2])
def test_cells_are_where_the_sites_of_a_level_are(source, level, parts):
    """Also where arrays that held other events are filled again."""
    form = SiteForm(depth=2, deepest_size=3, parts=parts, map_level=level)
    entries = [[3, 1], [-1, 5]]
    dense = dense_images(source, entries)
    found = read(source, entries, form, prefetch=0)
    for minibatch, images in zip(found, dense, strict=True):
        is_site = images.image.reshape(parts, -1, *images.image.shape[2:]) != 0
        for _ in range(level):
            rows, columns = (size + size % 2 for size in is_site.shape[2:])
            even = np.zeros((*is_site.shape[:2], rows, columns), bool)
            even[..., : is_site.shape[2], : is_site.shape[3]] = is_site
            cut = even.reshape(*is_site.shape[:2], rows // 2, 2, columns // 2, 2)
            is_site = cut.any((3, 5))
        for part in range(parts):
            sites = joined_sites.part_of(minibatch.sites, part)
            site, place = sites.cells
            assert site.dtype == place.dtype == np.int32
            places = len(sites.levels[level].image)
            assert site.shape == is_site.shape[1:] and place.shape == (places,)
            np.testing.assert_array_equal(site != places, is_site[part])
            held = np.flatnonzero(sites.levels[level].image < len(site))
            # Column after column, down the rows in each, as the sites are listed.
            in_order = site.swapaxes(1, 2).reshape(-1)
            np.testing.assert_array_equal(in_order[in_order != places], held)
            np.testing.assert_array_equal(site.reshape(-1)[place[held]], held)
            assert (place[len(held) :] == site.size).all()


def counts_of(source):
    """Sites of all events by level."""
    events = [source.read_sites(entry, 2) for entry in range(7)]
    return [site_minibatches.count_sites(event) for event in events]


def event_alone(source, entry):
    return make_sites(*source.read_pooled(entry), source.image_shape, 2, 3)


def begin_with_few_places(source, monkeypatch):
    """Samples the smallest event only, without rounding; returns all, by size."""
    order = np.argsort([sum(counts) for counts in counts_of(source)]).tolist()
    monkeypatch.setattr(site_minibatches, "capacity_for", lambda count: count)
    monkeypatch.setattr(site_minibatches, "sampled_entries", lambda _: order[:1])
    return order


def dense_images(source, entries):
    with pipeline.minibatches(source, entries, io_threads=1) as reader:
        return list(reader)


@pytest.mark.parametrize("release", [True, False])
def test_the_same_whatever_the_threads(source, monkeypatch, release):
    order = begin_with_few_places(source, monkeypatch)
    entries = [[one, other] for one in order for other in order[:2]]
    expected = read(source, entries, io_threads=1, prefetch=0)
    assert len({m.site_ids.shape for m in expected}) > 1
    for threads, prefetch in ((1, 3), (4, 1), (4, 5)):
        found = read(
            source, entries, io_threads=threads, prefetch=prefetch, release=release
        )
        for one, other in zip(found, expected, strict=True):
            assert_same(one.sites, other.sites)
            np.testing.assert_array_equal(one.site_ids, other.site_ids)


def test_arrays_are_used_again_when_they_come_back_only(source, monkeypatch):
    made = []
    original = joined_sites.make_arrays

    def count(*arguments):
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(site_minibatches, "make_arrays", count)
    entries = [[n % 7] for n in range(20)]
    options = {"form": FORM, "io_threads": 2, "prefetch": 2}
    with pipeline.minibatches(source, entries, **options) as reader:
        for minibatch in reader:
            reader.release(minibatch)
            reader.release(minibatch)
    assert 2 <= len(made) <= 4
    made.clear()
    with pipeline.minibatches(source, entries, **options) as reader:
        kept = list(reader)
    assert len(made) == 20
    for minibatch in kept:
        event, ids = event_alone(source, int(minibatch.entries[0]))
        assert minibatch.site_ids[0, : len(ids)].tolist() == ids.tolist()
        wide = minibatch.sites.wide[0, : len(ids)]
        assert (wide[:, 12] == np.arange(len(ids))).all()
        np.testing.assert_array_equal(
            minibatch.sites.charge[0, : len(ids)], event.charge
        )


def test_places_are_chosen_from_a_sample_and_logged(source, caplog):
    with caplog.at_level(logging.INFO, "ctjax"):
        minibatches = read(source, [[0, 1], [2, 3]], SiteForm(2, 3, parts=2))
    possible = [3 * 16 * 24, 3 * 8 * 12, 3 * 4 * 6, 4 * 6]
    expected = [min(1024, places) for places in possible]
    for minibatch in minibatches:
        found = [level.image.shape for level in minibatch.sites.levels]
        assert found == [(2, places) for places in expected]
    assert caplog.messages == [
        "Sites by level: up to 1024, 288, 72, 24; events in one list: 1"
    ]


def test_places_become_more_where_they_are_too_few(source, monkeypatch, caplog):
    order = begin_with_few_places(source, monkeypatch)
    counts = counts_of(source)
    with caplog.at_level(logging.INFO, "ctjax"):
        found = read(source, [[entry] for entry in order])
    before = [0] * 4
    for minibatch, entry in zip(found, order, strict=True):
        places = [level.image.shape[1] for level in minibatch.sites.levels]
        assert all(n <= p for n, p in zip(counts[entry], places, strict=True))
        assert all(a <= b for a, b in zip(before, places, strict=True))
        check_padding(joined_sites.part_of(minibatch.sites, 0), minibatch.site_ids[0])
        before = places
    grown = [line for line in caplog.messages if "instead of" in line]
    assert (
        len(grown)
        == len({tuple(joined_sites.count_places(m.sites)) for m in found}) - 1
        > 0
    )
    assert "the step is compiled again" in grown[0]


def test_places_do_not_depend_on_earlier_minibatches(source, monkeypatch):
    order = begin_with_few_places(source, monkeypatch)
    entries = [[entry] for entry in (*order, *order[:3])]
    at_once = read(source, entries)
    alone = [read(source, [one])[0] for one in entries]
    assert len({m.site_ids.shape for m in alone}) > 1
    for one, other in zip(at_once, alone, strict=True):
        assert_same(one.sites, other.sites)


def test_places_of_several_processes_are_never_too_few(source):
    form = SiteForm(2, 3, is_alone=False)
    (minibatch,) = read(source, [[0, 1, 2]], form)
    places = [level.image.shape[1] for level in minibatch.sites.levels]
    assert places == [1024, 3 * 288, 3 * 72, 3 * 24]
    assert site_minibatches.certain_places(0, [5000, 100]) == (1024, 100)
    assert site_minibatches.certain_places(1500, [5000, 1300, 100]) == (1536, 1300, 100)


def test_what_has_no_place_among_several_processes_is_one_line(source, path):
    source.max_pixels = 3
    monkey = SiteForm(2, 3, parts=2, is_alone=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_minibatches, "capacity_for", lambda count: count)
        with pytest.raises(LarcvFileError) as error:
            read(source, [[1, -1, 4, 3]], monkey)
    counts = {
        e: site_minibatches.count_sites(source.read_sites(e, 2))[0] for e in (1, 4, 3)
    }
    assert counts[1] > 18
    assert str(error.value) == (
        f"{path}, entry 1: found {counts[1]} sites at level 0 of this and the events "
        "beside it, expected at most 18 in a run of several processes"
    )


def test_a_damaged_event_stops_who_asks_for_it(source, monkeypatch):
    original = sources.EventSource.read_sites

    def fail(self, entry, *arguments):
        if entry == 3:
            raise LarcvFileError("entry 3 is bad")
        return original(self, entry, *arguments)

    monkeypatch.setattr(sources.EventSource, "read_sites", fail)
    assert len(read(source, [[0], [1], [2]])) == 3
    with pytest.raises(LarcvFileError, match="entry 3 is bad"):
        read(source, [[0], [3], [2], [1]], io_threads=3, prefetch=3)


def test_parts_that_are_not_equal_are_refused(source):
    with pytest.raises(ValueError, match="3 events, expected 3 in 2 equal parts"):
        read(source, [[0, 1, 2]], SiteForm(2, 3, parts=2))
    with pytest.raises(ValueError, match="1 events, expected 2"):
        read(source, [[0, 1], [2]])


def test_a_sample_is_spread_over_all_events():
    assert site_minibatches.sampled_entries(1) == [0]
    assert site_minibatches.sampled_entries(5) == [0, 1, 2, 3, 4]
    chosen = site_minibatches.sampled_entries(43_075)
    assert chosen[0] == 0 and chosen[-1] == 43_074 and len(set(chosen)) == 16
    assert np.ptp(np.diff(chosen)) <= 1


def test_files_without_labels(tmp_path):
    events = larcv_fixtures.make_events(2)
    path = larcv_fixtures.write_larcv(tmp_path / "bare.h5", events, with_label=False)
    with sources.open_source(file=str(path)) as source:
        (minibatch,) = read(source, [[0, 1]])
    assert not minibatch.sites.label.any() and not minibatch.sites.empty[..., 1:].any()
