"""What pyproject.toml cannot say: the packages' folders and the libraries in C."""

import pathlib
import platform
import runpy
import sys

from setuptools import Extension, find_packages, setup

HERE = pathlib.Path(__file__).parent
IS_X86 = platform.machine() in ("x86_64", "AMD64")

source_hash = runpy.run_path(str(HERE / "ctjax/base/source_hash.py"))["source_hash"]


def library(name: str, source: str, *, compile_args: list[str], **options) -> Extension:
    """Describes a library, which knows the sources that it is built from.

    Without a compiler, numpy and XLA do its work.
    """
    folder = (HERE / source).parent
    return Extension(
        name,
        [source],
        define_macros=[("CTJAX_SOURCE_HASH", f'"{source_hash(folder)}"')],
        extra_compile_args=compile_args,
        optional=True,
        py_limited_api=True,
        **options,
    )


setup(
    packages=[*find_packages(include=["ctjax", "ctjax.*"]), "ctjax.configs"],
    package_dir={"ctjax.configs": "configs"},
    ext_modules=[
        library(
            "ctjax.data._native",
            "ctjax/data/native.c",
            compile_args=["-O3", "-ffp-contract=off"],
        ),
        library(
            "ctjax.simulation._native",
            "ctjax/simulation/native.c",
            compile_args=["-O3", "-ffp-contract=off"],
            libraries=[] if sys.platform == "win32" else ["m"],
        ),
        library(
            "ctjax.models.kernels._cpu",
            "ctjax/models/kernels/cpu.c",
            # On processors without these instructions the library is not used.
            compile_args=["-O3", *(["-mavx2", "-mfma"] if IS_X86 else [])],
            extra_link_args=["-pthread"],
        ),
    ],
    options={
        # A changed header or hash alone would not be noticed.
        "build_ext": {"force": True},
        # The libraries have no symbol of Python's, so that one wheel of a platform
        # serves every Python from the oldest supported on; cp311-abi3 is how a wheel
        # says so, and needs no tag of our own making.
        "bdist_wheel": {"py_limited_api": "cp311"},
    },
)
