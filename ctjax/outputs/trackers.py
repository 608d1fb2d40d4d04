"""Sends the numbers of a training to the tracker of experiments that is asked for."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ctjax.base.optional_packages import import_optional
from ctjax.config import dotted, fields
from ctjax.config.choices import Tracker
from ctjax.config.fields import Config

logger = logging.getLogger("ctjax")

PROJECT = "ctjax"
"""What runs are listed under."""

Send = Callable[[Mapping[str, float], int], Any]
"""Takes numbers by name, and their step."""

Close = Callable[[bool], Any]
"""Takes whether the training has ended well."""


class TrackedRun:
    """Sends numbers until the first failure, which costs a warning and not the run."""

    def __init__(self, config: Config):
        """Begins a run of the tracker's, unless the configuration asks for none.

        Args:
          config: of the run, whose `mode.tracker` says where it is sent to.
        """
        self._name = config.mode.tracker.value
        self._calls: tuple[Send, Close] | None = None
        open_run = _OPENERS.get(config.mode.tracker)
        if open_run is not None:
            with self._surviving():
                self._calls = open_run(config)

    def send(self, kind: str, step: int, scalars: Mapping[str, float]) -> None:
        """Sends numbers of "train" or "test", which is put before their names."""
        if self._calls is not None:
            named = {f"{kind}/{name}": value for name, value in scalars.items()}
            with self._surviving():
                self._calls[0](named, step)

    def close(self, is_good: bool) -> None:
        """Ends the tracker's run; says there whether the training ended well."""
        if self._calls is not None:
            with self._surviving():
                self._calls[1](is_good)

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """Gives the tracker up at its first error, whatever it is."""
        try:
            yield
        except Exception as error:
            self._calls = None
            words = " ".join(str(error).split()) or type(error).__name__
            logger.warning("mode.tracker=%s: no more is sent: %s", self._name, words)


def _open_wandb(config: Config) -> tuple[Send, Close]:
    wandb = import_optional("wandb", "wandb")
    run = wandb.init(
        project=PROJECT,
        name=config.run.id,
        dir=config.output_dir,
        config=fields.to_dict(config),
        # Else it takes the place of the terminal's streams.
        settings=wandb.Settings(console="off"),
    )

    def close(is_good: bool) -> None:
        run.finish(exit_code=0 if is_good else 1)

    return (lambda scalars, step: run.log(dict(scalars), step=step)), close


def _open_mlflow(config: Config) -> tuple[Send, Close]:
    mlflow = import_optional("mlflow", "mlflow")
    mlflow.set_experiment(PROJECT)
    mlflow.start_run(run_name=config.run.id)
    mlflow.log_params(dotted.flatten(fields.to_dict(config)))

    def close(is_good: bool) -> None:
        mlflow.end_run("FINISHED" if is_good else "FAILED")

    return (lambda scalars, step: mlflow.log_metrics(dict(scalars), step=step)), close


_OPENERS = {Tracker.WANDB: _open_wandb, Tracker.MLFLOW: _open_mlflow}
