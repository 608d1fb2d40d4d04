"""Damaged files: the right data or LarcvFileError; and the reader against a writer."""

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctjax.config.fields import Data
from ctjax.data import native
from tests.support import fuzz_io, larcv_fixtures
from tests.support.larcv_fixtures import FILTERS
from tests.support.larcv_reads import check_reads


@pytest.mark.slow
def test_damaged_files_in_short():
    findings, refused = fuzz_io.run(60, seed=2)
    assert findings == {}
    assert 20 < refused < 60


@pytest.mark.slow
def test_damaged_files():
    assert fuzz_io.run(400, seed=3)[0] == {}


def test_the_fuzzer_finds_a_wrong_image(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "routines", native.routines)  # which `judge` changes
    # One checksum is made wrong: whatever is read right must then be reported.
    paths = fuzz_io.write_undamaged(str(tmp_path))[:1]
    wrong = {paths[0]: [c ^ 1 for c in fuzz_io.checksums(paths[0])]}
    verdicts = [fuzz_io.judge(n, 0, str(tmp_path), wrong) for n in range(40)]
    assert any("silent wrong data" in str(v) for v in verdicts)


PLANE = st.lists(
    st.tuples(
        st.integers(0, 8 * 16 - 1),
        st.floats(-(2.0**19), 2.0**19, width=32),
        st.integers(0, 2),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(
    data=st.lists(st.lists(PLANE, min_size=0, max_size=3), min_size=1, max_size=4),
    is_sorted=st.booleans(),
    filters=st.sampled_from(sorted(FILTERS)),
    chunk=st.integers(1, 50),
)
def test_reader_against_writer(data, is_sorted, filters, chunk):
    if not any(data):
        return
    events = []
    # Each plane that is asked for must be in some event.
    for planes in [*data, [[], [], []]]:
        planes = [sorted(p) if is_sorted else p for p in planes]
        kinds = (np.int64, np.float32, np.uint8)
        events.append(
            [
                tuple(np.array([v[i] for v in p], kinds[i]) for i in range(3))
                for p in planes
            ]
        )
    with tempfile.NamedTemporaryFile(suffix=".h5") as file:
        larcv_fixtures.write_larcv(
            file.name, events, (8, 16), voxel_chunk=chunk, filters=FILTERS[filters]
        )
        # Where few events have a plane it would not be taken for one.
        planes = Data(planes="0,1,2")
        check_reads(file.name, events, (8, 16), data=planes)
