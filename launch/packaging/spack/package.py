"""A recipe for Spack; put it into packages/py_ctjax/ of a repository of your own."""

# ruff: noqa: F403, F405

from spack.package import *
from spack_repo.builtin.build_systems.python import PythonPackage


class PyCtjax(PythonPackage):
    """Pixel segmentation of liquid-argon neutrino events, in JAX."""

    homepage = "https://github.com/coreyjadams/CosmicTagger"

    license("MIT")

    # The sources are a clone of ctjax: spack develop --path CLONE py-ctjax@main
    version("main")

    depends_on("c", type="build")
    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-setuptools@77:", type="build")
    depends_on("py-setuptools-scm@10:", type="build")

    with default_args(type=("build", "run")):
        depends_on("py-jax@0.10.2:")
        depends_on("py-jaxlib@0.10.2:")
        depends_on("py-flax@0.12.8:")
        depends_on("py-optax@0.2.8:")
        depends_on("py-orbax-checkpoint@0.12:")
        depends_on("py-h5py@3.11:")
        depends_on("py-deflate@0.8:")
        depends_on("py-numpy@2:")
        depends_on("py-ml-collections@1:")
        depends_on("py-tensorboardx@2.6.2.2:")
        depends_on("py-mpi4py@4.1:")
        depends_on("py-rich@13:")
        depends_on("py-bokeh@3.9:")
        depends_on("py-jinja2@3.1:")
