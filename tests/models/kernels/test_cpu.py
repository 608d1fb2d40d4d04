"""The library of the CPU's convolutions; what it computes is in test_convolution.py."""

import pytest

from ctjax.models.kernels import cpu

needs_library = pytest.mark.skipif(
    cpu._load() is None,
    reason="cpu.c is not built: pip install -e . with a C compiler",
)


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
