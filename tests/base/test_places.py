"""Places where a program may find itself: no home, closed streams, little of it all."""

import ctypes
import io
import os
import pathlib
import resource
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from ctjax.base import (
    descriptors,
    free_memory,
    home,
    npz,
    regular_files,
    standard_streams,
    user_cache,
)
from ctjax.base.errors import UserError
from ctjax.base.free_memory import Memory
from tests.support import ROOT

NOBODY = 54321


@pytest.fixture
def without_home(monkeypatch):
    """A user id that no passwd has, as in many containers."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)


def test_a_user_without_a_home_gets_no_folder_of_that_name(without_home):
    assert user_cache.folder("compiled") is None
    for path in ("~", "~/events.h5"):
        with pytest.raises(
            UserError, match=rf"{path}: found no home folder of .*{NOBODY}"
        ):
            home.expand(path)
    assert home.expand("/a/~b") == "/a/~b"


def test_home_stands_for_the_sign_at_the_start_only(monkeypatch):
    monkeypatch.setenv("HOME", "/there")
    assert home.expand("~/a[1]") == "/there/a[1]"
    assert home.expand("a/~/b") == "a/~/b"
    assert home.expand("~no-such-user/b") == "~no-such-user/b"


def test_the_cache_is_where_an_absolute_path_says(monkeypatch):
    monkeypatch.setenv("HOME", "/there")
    monkeypatch.setenv("XDG_CACHE_HOME", "/here")
    assert user_cache.folder("x") == "/here/ctjax/x"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache.folder("x") == "/there/.cache/ctjax/x"


def test_a_folder_for_programs_is_its_users_alone(tmp_path, monkeypatch):
    folder = tmp_path / "a/b"
    assert user_cache.make_private(str(folder)) is None
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert user_cache.make_private(str(folder)) is None
    for mode in (0o775, 0o757, 0o1777):
        folder.chmod(mode)
        words = user_cache.make_private(str(folder))
        assert words == f"others can write into it (mode {mode:o})"
    folder.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    assert f"not to {NOBODY}" in (user_cache.make_private(str(folder)) or "")
    (tmp_path / "file").write_text("")
    found = user_cache.make_private(str(tmp_path / "file/b"))
    assert found == "it cannot be made (Not a directory)"


def test_what_is_no_regular_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, kind in (
            (tmp_path / "fifo", "a FIFO"),
            (tmp_path / "socket", "a socket"),
            (tmp_path, "a folder"),
            (pathlib.Path("/dev/zero"), "a device"),
        ):
            with pytest.raises(UserError, match=f"found {kind}, expected a regular"):
                regular_files.check(path)
    (tmp_path / "file").write_text("")
    regular_files.check(tmp_path / "file")


@pytest.fixture
def limits(monkeypatch):
    """A limit of open files that can be looked at, and is not the process's."""
    limits = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits["now"])
    monkeypatch.setattr(
        resource, "setrlimit", lambda which, pair: limits.update(now=pair)
    )
    monkeypatch.setattr(descriptors, "_count_open", lambda: 10)
    return limits


def test_the_limit_of_open_files_is_raised_as_far_as_needed(limits):
    assert descriptors.find_shortage(100) is None
    assert limits["now"] == (1024, 4096)
    assert descriptors.find_shortage(1200) is None
    assert limits["now"] == (10 + 1200 + descriptors.SPARE, 4096)


def test_a_limit_of_open_files_that_cannot_be_raised_is_named(limits):
    limits["now"] = (1024, 1024)
    needed = 10 + 1200 + descriptors.SPARE
    assert descriptors.find_shortage(1200) == (
        f"found a limit of 1024 open files (ulimit -n), expected {needed} or more"
    )


def test_open_files_are_counted(tmp_path):
    before = descriptors._count_open()
    with open(tmp_path / "file", "wb"):
        assert descriptors._count_open() == before + 1


def fake_machine(root, groups, files):
    """Files of Linux's proc and sys, with 6 MB free of 10 and 1 MB of swap."""
    sizes = {
        "MemTotal": 9000,
        "MemAvailable": 5000,
        "SwapTotal": 1000,
        "SwapFree": 1000,
    }
    lines = "".join(f"{name}:  {size} kB\n" for name, size in sizes.items())
    files = {"proc/meminfo": lines, "proc/self/cgroup": groups, **files}
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return free_memory.find(str(root))


GROUP = "the control group of this process (cgroup)"
NEW = {
    "sys/fs/cgroup/a/memory.max": "3000000\n",
    "sys/fs/cgroup/a/memory.current": "1500000\n",
    "sys/fs/cgroup/a/memory.stat": "anon 7\ninactive_file 500000\n",
}
LIMIT = "sys/fs/cgroup/memory/memory.limit_in_bytes"
OLD = {
    LIMIT: "4000000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "3500000\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
}


@pytest.mark.parametrize(
    "groups, files, expected",
    [
        ("", {}, Memory(6144000, 10240000, "this machine")),
        # The limit is that of the group above; what files keep can be had.
        ("0::/a/b\n", NEW, Memory(2000000, 3000000, GROUP)),
        ("0::/a\n", {**NEW, "sys/fs/cgroup/a/memory.max": "max\n"}, None),
        # The path is the host's, the folder the container's.
        ("5:cpu:/x\n4:memory:/docker/1\n", OLD, Memory(500200, 4000000, GROUP)),
        ("4:memory:/\n", {**OLD, LIMIT: "9223372036854771712"}, None),
    ],
)
def test_free_memory_is_the_least_of_machine_and_groups(
    tmp_path, groups, files, expected
):
    found = fake_machine(tmp_path, groups, files)
    assert found == (expected or Memory(6144000, 10240000, "this machine"))


def test_free_memory_of_this_machine_and_of_none(tmp_path):
    assert free_memory.find(str(tmp_path)) is None
    found = free_memory.find()
    assert found is None or 0 < found.free <= found.total


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="only glibc keeps what is freed, and can be told not to",
)
def test_freed_memory_is_given_back():
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = (ctypes.c_void_p,)
    size, count = 2**16, 1024  # small enough for glibc's heap
    blocks = [library.malloc(ctypes.c_size_t(size)) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:  # below the last, the heap cannot shrink by itself
        library.free(block)
    kept = resident_bytes()
    free_memory.give_back()
    assert resident_bytes() < kept - size * count // 2
    library.free(blocks[-1])


def test_weights_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    path = str(tmp_path / "a.npz")
    np.savez(path, good=np.zeros((3, 5), np.float32), scalar=np.float64(1))
    npz.check_sizes(path)
    pathlib.Path(path).write_bytes(b"no zip")
    with pytest.raises(ValueError, match="not a zip file"):
        npz.check_sizes(path)
    np.savez(path, good=np.zeros(100))
    monkeypatch.setattr(npz, "MAX_BYTES", 800)
    with pytest.raises(ValueError, match=r"found 9\d\d bytes of arrays, expected 800"):
        npz.check_sizes(path)


def test_a_claimed_shape_is_compared_with_the_bytes(tmp_path):
    path = str(tmp_path / "a.npz")
    header = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, description)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("large.npy", header.getvalue() + bytes(8))
    with pytest.raises(ValueError, match=r"large.npy: .* expected 4000000000000 for"):
        npz.check_sizes(path)


# What a library says on a closed stream must not go into a file of the run.
CLOSED = """
import os, sys
from ctjax.base import standard_streams
standard_streams.open_closed()
with open(sys.argv[1], "w") as file:
    os.write(1, b"a line of a library")
    os.write(2, b"another")
    sys.stdout.write("a line"); sys.stdout.flush()
    sys.stderr.write("a line")
    file.write(f"{file.fileno()}")
"""


def test_closed_streams_take_nobodys_place(tmp_path):
    path = tmp_path / "file"
    command = ["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh"]
    words = [sys.executable, "-c", CLOSED, str(path)]
    result = subprocess.run([*command, *words], cwd=ROOT, timeout=60)
    assert result.returncode == 0
    assert int(path.read_text()) > 2


GONE = """
import os, sys
from ctjax.base import standard_streams
standard_streams.outlive_readers()
reader, writer = os.pipe()
os.dup2(writer, 1); os.dup2(writer, 2)
os.close(reader)
for _ in range(3):
    sys.stdout.write("a line\\n"); sys.stdout.flush()
    sys.stderr.write("a line\\n")
"""


def test_a_reader_that_is_gone_changes_no_status():
    assert (
        subprocess.run([sys.executable, "-c", GONE], cwd=ROOT, timeout=60).returncode
        == 0
    )


def test_streams_of_others_are_left_alone(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    standard_streams.open_closed()
    standard_streams.outlive_readers()
    assert sys.stdout is stream
