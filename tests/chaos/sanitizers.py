"""Runs the code in C under the compiler's sanitizers, driven from Python.

    python -m tests.chaos.sanitizers --output report.json

Each C file is built by gcc with AddressSanitizer, UndefinedBehaviorSanitizer and
ThreadSanitizer in turn. Several threads at once call it on small inputs, odd ones too,
and compare what it computes with numpy; a finding ends the process.
"""

import argparse
import concurrent.futures
import ctypes
import dataclasses
import itertools
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np

from ctjax.base import native_library
from tests.support import ROOT, larcv_fixtures, lists_in_c

SOURCES = {
    "data": "ctjax/data/native.c",
    "simulation": "ctjax/simulation/native.c",
    "convolutions": "ctjax/models/kernels/cpu.c",
}
SANITIZERS = {"address": "libasan.so", "undefined": None, "thread": "libtsan.so"}
"""Names for gcc, and the library that has to be loaded before all others."""

OPTIONS = {
    # What Python itself leaves behind at its end is not looked at.
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=99:ignore_noninstrumented_modules=1",
    "PYTHONMALLOC": "malloc",
    "OPENBLAS_NUM_THREADS": "1",
}
THREADS = 4


def main() -> int:
    """Runs every C file under every sanitizer; returns 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.sanitizers")
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        name, library = options.drive
        sys.stdout.write(f"{DRIVERS[name](library)}\n")
        return 0
    results = [
        run(name, ROOT / source, sanitizer)
        for name, source in SOURCES.items()
        for sanitizer in SANITIZERS
    ]
    for result in results:
        sys.stdout.write(f"{json.dumps(result)}\n")
    if options.output:
        text = json.dumps(results, indent=1) + "\n"
        options.output.write_text(text, encoding="utf-8")
    return 0 if all(result["finding"] is None for result in results) else 1


def run(name: str, source: pathlib.Path, sanitizer: str) -> dict:
    """Builds a C file and calls it; returns how often, and what was found."""
    with tempfile.TemporaryDirectory() as folder:
        library = build(source, sanitizer, pathlib.Path(folder))
        first = SANITIZERS[sanitizer]
        preload = {"LD_PRELOAD": find_library(first)} if first else {}
        result = subprocess.run(
            [
                *without_random_addresses(),
                *(sys.executable, "-m", "tests.chaos.sanitizers"),
                *("--drive", name, str(library)),
            ],
            env=os.environ | OPTIONS | preload,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=1800,
        )
    finding = None
    if result.returncode:
        finding = result.stderr[-3000:] or f"status {result.returncode}"
    calls = 0 if result.returncode else int(result.stdout.splitlines()[-1])
    return {"file": name, "sanitizer": sanitizer, "calls": calls, "finding": finding}


def build(source: pathlib.Path, sanitizer: str, folder: pathlib.Path) -> pathlib.Path:
    """Builds a library; `source` may be a changed copy of one of SOURCES."""
    library = folder / "library.so"
    wide = ["-mavx2", "-mfma"] if platform.machine() == "x86_64" else []
    command = [
        *("gcc", "-shared", "-fPIC", "-O1", "-g", "-fno-omit-frame-pointer"),
        *(f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"),
        *("-ffp-contract=off", '-DCTJAX_SOURCE_HASH="sanitized"'),
        *(wide if source.name == "cpu.c" else []),
        *(str(source), "-o", str(library), "-lm", "-pthread"),
    ]
    subprocess.run(command, check=True, cwd=ROOT)
    return library


def find_library(name: str) -> str:
    """Asks gcc for the path of one of its libraries."""
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout[
        :-1
    ]


def without_random_addresses() -> list[str]:
    """ThreadSanitizer's map of the memory has no room for very random addresses."""
    command = ["setarch", platform.machine(), "--addr-no-randomize"]
    if shutil.which("setarch") is None:
        return []
    works = subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else []


def in_threads(function: Callable[[int], int]) -> int:
    """Calls a function in several threads at once; returns the sum of its results."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(function, range(THREADS)))


def drive_data(library: str) -> int:
    """Reads events of small files, pooled by every factor, and odd shapes."""
    native_library.load = lambda _: ctypes.CDLL(library)
    from ctjax.data import native, pooling, sources

    shape = (16, 24)

    def read(thread: int) -> int:
        with tempfile.TemporaryDirectory() as folder:
            events = larcv_fixtures.make_events(40, shape, seed=thread, most=384)
            path = larcv_fixtures.write_larcv(f"{folder}/f.h5", events, shape)
            for downsample in range(4):
                image, label = larcv_fixtures.dense_truth(events, shape, downsample)
                with sources.open_source(file=path, downsample=downsample) as source:
                    for entry in range(len(events)):
                        found = np.zeros(image.shape[1:], np.float32)
                        classes = np.zeros(found.shape, np.uint8)
                        source.read(entry, found, classes)
                        np.testing.assert_array_equal(found, image[entry])
                        np.testing.assert_array_equal(classes, label[entry])
        return 4 * len(events)

    calls = in_threads(read)
    random = np.random.default_rng(0)
    for height, width, d in itertools.product((1, 5, 64, 130), (1, 7, 32), range(6)):
        ids = np.flatnonzero(random.random(height * width) < 0.5).astype(np.int32)
        planes = (slice(0, 0), slice(0, len(ids)))
        values = np.ones(len(ids), np.float32), np.ones(len(ids), np.uint8)
        pooled = native.pool(ids, planes, *values, (height, width), d)
        is_whole = height % 2**d == width % 2**d == 0
        assert (pooled is not None) == is_whole, (height, width, d)
        if pooled is not None:
            other = pooling._pool_in_numpy(ids, planes, *values, (height, width), d)
            np.testing.assert_array_equal(pooled[0], other[0])
        calls += 1
    return calls + in_threads(list_sites)


def list_sites(seed: int) -> int:
    """Makes lists of sites, of odd images and of ids that are no sites, in C alone."""
    from ctjax.data import native, site_lists
    from ctjax.data.voxels import Voxels

    random = np.random.default_rng(seed)
    calls = 0
    for height, width, share in itertools.product((1, 5, 64), (1, 7, 32), (0, 0.3, 1)):
        pixels = [np.flatnonzero(random.random(height * width) < share) for _ in "123"]
        ends = np.cumsum([0] + [len(plane) for plane in pixels]).tolist()
        ids, planes = (
            np.concatenate(pixels).astype(np.int32),
            [*map(slice, ends, ends[1:])],
        )
        image = Voxels(ids, ids.astype(np.float32), tuple(planes), True)
        event = site_lists.list_sites(image, None, (height, width), 4)
        for grid, size in itertools.product(event.grids, (1, 3, 5, 7)):
            table = np.empty((len(grid.ids), size * size), np.int32)
            assert native.find_neighbours(*grid, size, 3, -1, table)
            site, number = np.nonzero(table >= 0)
            back = table[table[site, number] - 3, size * size - 1 - number]
            np.testing.assert_array_equal(back, site + 3)
        for step in event.steps:
            found = step.parts.reshape(-1)[step.place]
            np.testing.assert_array_equal(found, np.arange(len(found)))
            out = np.empty_like(step.parts)
            assert native.renumber(step.parts, 3, (len(found), -1), out)
            np.testing.assert_array_equal(np.sort(out[out >= 0]) - 3, np.sort(found))
        if len(ids) > len(planes):
            table = np.empty((len(ids), 25), np.int32)
            for wrong in (ids * 0, ids - ids.min() - 1, ids + height * width):
                arguments = wrong, image.planes, (height, width)
                assert not native.find_neighbours(*arguments, 5, 0, -1, table)
                assert native.halve(*arguments) is None
                assert native.merge_planes(*arguments) is None
        calls += 1
    return calls


def drive_simulation(library: str) -> int:
    """Simulates events of several shapes, with the loops in C and in numpy."""
    native_library.load = lambda _: ctypes.CDLL(library)
    from ctjax.simulation import native
    from ctjax.simulation.detectors import DETECTORS
    from ctjax.simulation.events import Simulator
    from ctjax.simulation.parameters import SimulationParameters

    full = SimulationParameters()
    variants = [
        dataclasses.replace(full, **changes)
        for changes in (
            {"image_shape": (160, 256)},
            {"image_shape": (32, 32)},
            {"image_shape": (1440, 96)},
            {"image_shape": (320, 64), "ticks_per_row": 1},
            {"image_shape": (64, 64), "noise_pixels": ((6e5, 4e6),) * 3},
        )
    ]
    variants += [
        dataclasses.replace(DETECTORS[name], image_shape=shape)
        for name, shape in (("microboone", (48, 144)), ("two_tpcs", (96, 64)))
    ]

    def simulate(parameters: SimulationParameters, number: int) -> list[bytes]:
        event = Simulator(parameters).event(1, number)
        arrays = [(p.ids, p.charge, p.label) for p in event.planes]
        return [array.tobytes() for plane in arrays for array in plane]

    def all_of(thread: int) -> list[list[bytes]]:
        return [simulate(parameters, thread % 2) for parameters in variants]

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(all_of, range(THREADS)))
    native.routines = None
    for thread in range(2):
        assert found[thread] == found[thread + 2] == all_of(thread)
    return THREADS * len(variants)


def drive_convolutions(library: str) -> int:
    """Calls the convolutions as XLA does, from several threads at once."""
    routines = ctypes.CDLL(library)
    for name in ("convolve", "activation_gradient", "kernel_gradient"):
        getattr(routines, f"ctjax_{name}_space").restype = ctypes.c_int64
        getattr(routines, f"ctjax_{name}_space").argtypes = (
            ctypes.c_char_p,
            ctypes.c_size_t,
        )
    routines.ctjax_reserve.argtypes = (ctypes.c_int64,)
    routines.ctjax_start_threads(3)
    shapes = list(
        itertools.product(
            *((0, 1, 2), (1, 5), (1, 17), (1, 3, 8), (8, 24, 32), (1, 3, 5), (8, 16))
        )
    )

    def call_all(thread: int) -> int:
        random = np.random.default_rng(thread)
        for images, height, width, inputs, outputs, size, lanes in shapes:
            task = (images, height, width, inputs, outputs, size)
            check_convolutions(routines, random, task, lanes)
        return 5 * len(shapes)

    return in_threads(call_all) + drive_lists(library)


def drive_lists(library: str) -> int:
    """Calls the convolutions of lists of sites likewise."""
    routines = lists_in_c.load(library, 3)
    shapes = list(
        itertools.product((0, 1, 127, 129, 4100), (8, 24), (8, 32), (8, 16), range(3))
    )

    def call_all(thread: int) -> int:
        random = np.random.default_rng(thread)
        return sum(
            lists_in_c.check(routines, random, *features, lanes, products)
            for *features, lanes, products in shapes
        )

    return in_threads(call_all)


def check_convolutions(routines, random, task: tuple[int, ...], lanes: int) -> None:
    """Compares the five functions with numpy, on arrays without a byte to spare."""
    images, height, width, inputs, outputs, size = task
    config = " ".join(map(str, (*task, lanes))).encode()

    def draw(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    def call(name: str, shape: tuple[int, ...], *operands: np.ndarray, space: str):
        floats = getattr(routines, f"ctjax_{space}_space")(config, len(config))
        assert routines.ctjax_reserve(floats)
        out = np.full(shape, np.nan, np.float32)
        pointers = (ctypes.c_void_p * len(operands))(
            *(operand.ctypes.data for operand in operands)
        )
        getattr(routines, f"ctjax_{name}")(
            out.ctypes.data_as(ctypes.c_void_p),
            pointers,
            config,
            ctypes.c_size_t(len(config)),
            None,
        )
        return out

    x, kernel = draw(images, height, width, inputs), draw(size, size, inputs, outputs)
    bias, more = draw(outputs), draw(images, height, width, outputs)
    padding = [(0, 0), *[((size - 1) // 2,) * 2] * 2, (0, 0)]
    padded = np.pad(x, padding)
    windows = [
        (i, j, padded[:, i : i + height, j : j + width])
        for i, j in itertools.product(range(size), repeat=2)
    ]
    plain = sum(window @ kernel[i, j] for i, j, window in windows)
    close = {"rtol": 1e-4, "atol": 1e-4}
    shape = (images, height, width, outputs)
    found = call("convolve", shape, x, kernel, space="convolve")
    np.testing.assert_allclose(found, plain, **close)
    activated = lists_in_c.activated
    found = call("convolve_biased", shape, x, kernel, bias, space="convolve")
    np.testing.assert_allclose(found, activated(plain + bias), **close)
    found = call("convolve_added", shape, x, more, kernel, bias, space="convolve")
    np.testing.assert_allclose(
        found, lists_in_c.activated(plain + bias + more), **close
    )
    found = call("kernel_gradient", kernel.shape, x, more, space="kernel_gradient")
    rows = more.reshape(-1, outputs)
    for i, j, window in windows:
        expected = window.reshape(-1, inputs).T @ rows
        np.testing.assert_allclose(found[i, j], expected, **close)
    check_activation_gradient(routines, config, draw(*shape), more)


def check_activation_gradient(routines, config: bytes, result, gradient) -> None:
    """Compares the gradient through the activation, in place as XLA has it."""
    space = routines.ctjax_activation_gradient_space(config, len(config))
    assert routines.ctjax_reserve(space)
    expected = gradient * np.where(result > 0, np.float32(1), lists_in_c.SLOPE)
    through, sums = gradient.copy(), np.full(result.shape[-1], np.nan, np.float32)
    out = (ctypes.c_void_p * 2)(through.ctypes.data, sums.ctypes.data)
    operands = (ctypes.c_void_p * 2)(result.ctypes.data, through.ctypes.data)
    routines.ctjax_activation_gradient(
        out, operands, config, ctypes.c_size_t(len(config)), None
    )
    np.testing.assert_array_equal(through, expected)
    total = expected.sum((0, 1, 2), np.float64)
    np.testing.assert_allclose(sums, total, rtol=1e-4, atol=1e-4)


DRIVERS = {
    "data": drive_data,
    "simulation": drive_simulation,
    "convolutions": drive_convolutions,
}

if __name__ == "__main__":
    sys.exit(main())
