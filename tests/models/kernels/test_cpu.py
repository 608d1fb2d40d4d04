"""The library of the CPU's convolutions; what it computes is in test_convolution.py."""

import pytest

from ctjax.models.kernels import cpu
from tests.support.building import build


def test_installation_builds_the_library(tmp_path, monkeypatch, needs_compiler):
    build(tmp_path)
    path = tmp_path / "ctjax/models/kernels/cpu.py"
    monkeypatch.setattr(cpu, "__file__", str(path))
    assert path.with_name("_cpu.abi3.so").exists()
    assert cpu._load() is not None


def test_installation_needs_no_compiler(tmp_path, monkeypatch):
    build(tmp_path, CC="absent-compiler")
    path = tmp_path / "ctjax/models/kernels/cpu.py"
    assert not path.with_name("_cpu.abi3.so").exists()
    monkeypatch.setattr(cpu, "__file__", str(path))
    assert cpu._load() is None


needs_library = pytest.mark.skipif(
    cpu._load() is None,
    reason="cpu.c is not built: pip install -e . with a C compiler",
)


@needs_library
def test_library_of_another_version_is_not_used(monkeypatch):
    monkeypatch.setattr(cpu, "VERSION", cpu.VERSION + 1)
    assert cpu._load() is None


@needs_library
def test_is_used_here():
    assert cpu.are_usable()


@needs_library
def test_an_xla_that_does_not_call_it_is_noted(monkeypatch, caplog):
    def refuse(*arguments):
        raise ValueError("no such form of call")

    monkeypatch.setattr(cpu, "_call", refuse)
    assert not cpu._are_called()
    (record,) = caplog.records
    assert record.getMessage() == (
        "XLA does not call ctjax's convolutions: no such form of call"
    )


@pytest.mark.parametrize("name", ["PJRT_NPROC", "NPROC"])
def test_takes_as_many_threads_as_xla(name, monkeypatch):
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    monkeypatch.delenv("NPROC", raising=False)
    own = cpu.num_threads()
    assert own >= 1
    monkeypatch.setenv(name, "7")
    assert cpu.num_threads() == 7
    monkeypatch.setenv(name, "many")
    assert cpu.num_threads() == own
