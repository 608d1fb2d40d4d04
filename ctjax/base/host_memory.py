"""How the C library of a process gets its memory from the system."""

import os
import pathlib
import sys

_TUNABLES = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb"
_PRELOADED = "LD_PRELOAD"


def prepare() -> None:
    """Starts this process anew, once, with huge pages and with freed memory kept.

    XLA allocates what a step needs anew for every step. In pages of 4 kB that is half a
    million page faults a step of scc21 on the CPU, a sixth of its processor time, and
    the clearing of huge ones still takes a seventh. glibc reads its settings when a
    process starts and at no other time; other C libraries, and kernels without huge
    pages, ignore them. host_memory.c, where it could be built, is preloaded. What the
    user has set stays, be it empty.
    """
    if not sys.platform.startswith("linux"):
        return
    changes = {}
    tunables = os.environ.get(_TUNABLES, "")
    if _HUGE_PAGES not in tunables:
        changes[_TUNABLES] = ":".join(filter(None, (tunables, f"{_HUGE_PAGES}=1")))
    library = find_library()
    if library is not None and _PRELOADED not in os.environ:
        changes[_PRELOADED] = str(library)
    if changes:
        os.environ.update(changes)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def find_library() -> pathlib.Path | None:
    """Returns the path of the built host_memory.c, if it can be preloaded."""
    path = pathlib.Path(__file__).resolve().with_name("_host_memory.abi3.so")
    # What the loader takes for the ends of a path.
    if not path.exists() or any(character in str(path) for character in " :\t\n$"):
        return None
    return path
