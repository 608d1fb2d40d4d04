"""A process of benchmarks/compute_worker.py, as benchmarks/compute.py talks to it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping

ROOT = pathlib.Path(__file__).parent.parent


class WorkerError(RuntimeError):
    """A process that ended or had to be ended; the message says why."""


class Worker:
    """A process of benchmarks/compute_worker.py."""

    def __init__(
        self,
        job: dict,
        folder: str,
        deadline: float,
        changes: Mapping[str, str] = types.MappingProxyType({}),
    ):
        """Starts it; past the deadline (of time.monotonic) it is ended."""
        self._deadline = deadline
        environment = os.environ | {
            # Each side keeps what it compiles, and takes the memory that it needs.
            "JAX_COMPILATION_CACHE_DIR": os.path.join(folder, "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TORCHINDUCTOR_CACHE_DIR": os.path.join(folder, "inductor"),
            "TRITON_CACHE_DIR": os.path.join(folder, "triton"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            **changes,
        }
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.compute_worker", json.dumps(job)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> "Worker":
        """Nothing to do."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the process and what it started."""
        self._end()
        self._process.wait()
        for channel in (self._process.stdin, self._process.stdout, self._log):
            try:
                channel.close()
            except BrokenPipeError:
                continue

    def _end(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def tell(self, word: object) -> dict:
        """Sends a line and returns the answer."""
        try:
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says it
        return self.answer()

    def answer(self) -> dict:
        """Waits for one line."""
        timer = threading.Timer(
            max(0.0, min(self._deadline - time.monotonic(), 1e6)), self._end
        )
        timer.daemon = True
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if line:
            return json.loads(line)
        if time.monotonic() > self._deadline:
            raise WorkerError("ended: its time was over")
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        raise WorkerError(lines[-1].strip() if lines else "ended without a word")


def has_files(folder: pathlib.Path) -> bool:
    """Says whether a folder is there and holds anything."""
    return folder.is_dir() and any(folder.iterdir())
