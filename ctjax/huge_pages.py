"""Huge pages for the memory of a process."""

import os
import sys

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"


def ask_for() -> None:
    """Starts this process anew, once, if the C library has to be told of huge pages.

    XLA allocates what a step needs anew for every step. In pages of 4 kB that is half a
    million page faults a step of scc21 on the CPU, a sixth of its processor time. glibc
    reads the variable when a process starts and at no other time; other C libraries and
    kernels without huge pages ignore it. What the user has set stays.
    """
    tunables = os.environ.get(_VARIABLE, "")
    if not sys.platform.startswith("linux") or _TUNABLE in tunables:
        return
    os.environ[_VARIABLE] = ":".join(filter(None, (tunables, f"{_TUNABLE}=1")))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
