"""Traces a few steps of a run for TensorBoard and Perfetto."""

import jax


class StepTrace:
    """Writes a trace of some steps; leaving the block closes it, however that happens.

    A run that ends between these steps leaves the trace of those it has done.
    """

    def __init__(self, folder: str | None, steps: range):
        """Takes where to write, None for no trace, and the steps to be traced."""
        self._folder = folder
        self._steps = steps
        self._is_open = False

    def __enter__(self) -> "StepTrace":
        """Returns the trace, which begins with its first step."""
        return self

    def __exit__(self, *exception) -> None:
        """Closes a trace whose last step was not reached."""
        self._close()

    def before(self, step: int) -> None:
        """Begins the trace where this step is the first one."""
        if self._folder is not None and self._steps and step == self._steps[0]:
            jax.profiler.start_trace(self._folder)
            self._is_open = True

    def is_last(self, step: int) -> bool:
        """Says whether the trace ends with this step, which is then to be awaited."""
        return self._is_open and step == self._steps[-1]

    def after(self, step: int) -> None:
        """Ends the trace where this step, which is done, is the last one."""
        if self.is_last(step):
            self._close()

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            jax.profiler.stop_trace()
