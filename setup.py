"""Installation of ctjax; development settings are in pyproject.toml."""

import pathlib
import platform
import re
import sys

from setuptools import Extension, find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "ctjax/__init__.py").read_text()
).group(1)
REQUIREMENTS = [
    line
    for line in (HERE / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
]

IS_X86 = platform.machine() in ("x86_64", "AMD64")

setup(
    name="ctjax",
    version=VERSION,
    description="CosmicTagger's pixel segmentation of neutrino events, in JAX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["ctjax", "ctjax.*"]),
    # Without a compiler numpy and XLA do the same. One build serves every Python.
    ext_modules=[
        Extension(
            "ctjax.data._native",
            ["ctjax/data/native.c"],
            extra_compile_args=["-O3", "-ffp-contract=off"],
            optional=True,
            py_limited_api=True,
        ),
        Extension(
            "ctjax.simulation._native",
            ["ctjax/simulation/native.c"],
            extra_compile_args=["-O3", "-ffp-contract=off"],
            libraries=[] if sys.platform == "win32" else ["m"],
            optional=True,
            py_limited_api=True,
        ),
        Extension(
            "ctjax.models.kernels._cpu",
            ["ctjax/models/kernels/cpu.c"],
            depends=["ctjax/models/kernels/cpu_product.h"],
            # On processors without these instructions the library is not used.
            extra_compile_args=["-O3", *(["-mavx2", "-mfma"] if IS_X86 else [])],
            extra_link_args=["-pthread"],
            optional=True,
            py_limited_api=True,
        ),
    ],
    package_data={"ctjax.views.report": ["*.html", "*.css", "*.js"]},
    python_requires=">=3.11",
    install_requires=REQUIREMENTS,
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "ruff>=0.14",
            "pyright>=1.1.400",
            "scipy>=1.13",
            "matplotlib>=3.9",
            "bokeh>=3.4",
            "playwright>=1.45",
            'openmpi>=5; sys_platform == "linux"',
        ],
        "benchmarks": ["matplotlib>=3.9", "scipy>=1.13"],
        "display": ["matplotlib>=3.9"],
        "report": ["bokeh>=3.4"],
        "torch": ["torch>=2.4"],
        "mpi": ["openmpi>=5"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
    },
)
