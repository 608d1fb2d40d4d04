"""What every test sees: simulated devices, strict broadcasting, the shared folder."""

import os
import pathlib
import shutil
import sysconfig
import tempfile

import hypothesis
import jax
import pytest

from ctjax.data import native
from ctjax.learning import sharding
from ctjax.outputs import log
from tests.support import parity_table


def pytest_configure(config):
    """Sets jax up before any test module is imported and starts a backend."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # One for all workers and all processes that tests start; not the user's.
        folder = tempfile.mkdtemp(prefix="ctjax-tests-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    wanted = config.getoption("markexpr", "")
    if "not slow" in wanted:
        # Most of these tests' time is compiling; programs are the same but for LLVM's
        # part. The slow ones, of all golden networks too, run as users' do.
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    if "gpu" not in wanted.replace("not gpu", ""):
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    hypothesis.settings.register_profile(
        "deterministic", derandomize=True, deadline=None
    )
    hypothesis.settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def log_goes_to_pytest():
    """Gives the log back to pytest after a test that has left it to a run."""
    yield
    log.logger.propagate = True


@pytest.fixture
def one_device(monkeypatch):
    """Runs take the first device alone, as on most machines."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda: make_mesh(jax.devices()[:1]))


@pytest.fixture(params=["C", "numpy"])
def loops(request, monkeypatch) -> str:
    """Runs a test with the loops of native.c and with those in numpy."""
    if request.param == "numpy":
        monkeypatch.setattr(native, "routines", None)
    elif native.routines is None:
        pytest.skip("native.c is not built: pip install -e . with a C compiler")
    return request.param


@pytest.fixture
def needs_compiler():
    """Skips the test where there is no C compiler."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler: {compiler}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Small runs that the tests of a module share; see tests/support/small_runs.py."""
    from tests.support import small_runs

    return small_runs.Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def truth(runs):
    """Charges [8, P, H, W] and classes of the events that small runs read."""
    from tests.support import larcv_fixtures, small_runs

    return larcv_fixtures.dense_truth(runs.events, small_runs.SHAPE)


@pytest.fixture(scope="session")
def shared_folder() -> pathlib.Path:
    """The folder of shared files that CTJAX_SHARED names; skips where it is unset."""
    folder = os.environ.get("CTJAX_SHARED")
    if not folder:
        pytest.skip("CTJAX_SHARED does not name the folder of shared files")
    return pathlib.Path(folder).resolve()


def pytest_terminal_summary(terminalreporter):
    parity_table.print_table(terminalreporter)
