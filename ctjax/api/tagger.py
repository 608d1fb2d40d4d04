"""Predicts the classes of pixels by a network with its weights."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ctjax.api import exporting
from ctjax.api.event import Event
from ctjax.api.events import Events
from ctjax.api.images import class_image, given_voxels, pad_to_network, score_image
from ctjax.base.constants import FULL_IMAGE_SHAPE
from ctjax.base.detector import Detector, ImageShape
from ctjax.base.errors import UserError
from ctjax.config.detectors import read_detector
from ctjax.config.fields import Config
from ctjax.data.given_events import GivenEvents
from ctjax.data.minibatch import HostMinibatch
from ctjax.data.order import PADDING
from ctjax.data.sources import EventSource
from ctjax.data.voxels import Voxels
from ctjax.learning import sharding
from ctjax.learning.compiled import compile_ahead, compile_eval_step
from ctjax.learning.one_behind import one_behind
from ctjax.learning.state import count_parameters
from ctjax.learning.steps import make_eval_step
from ctjax.models import PixelNetwork
from ctjax.outputs import predictions, saved_config
from ctjax.outputs.saved_config import SavedConfig
from ctjax.runs import parts

BATCH_SIZE = 2
"""Events computed together unless the user says otherwise; that of a run, too."""


class Evaluated(NamedTuple):
    """Holds a minibatch that has been evaluated.

    Attributes:
      minibatch: on the host.
      results: those of the evaluation step that predictions are made of, on the host,
        of images without the rows and columns that were added for the network.
    """

    minibatch: HostMinibatch
    results: dict[str, np.ndarray]


class Tagger:
    """A network with its weights. Made by `ctjax.load`.

    Attributes:
      config: what it computes: network, `data.img_transform`, `run.precision` and
        `mode.mask_empty_pixels`.
      weights: where its weights are from, in words.
      step: training steps that they have seen; 0 where unknown.
      detector: planes and classes of its images.
    """

    def __init__(
        self,
        config: Config,
        model: PixelNetwork,
        variables: dict[str, Any],
        weights: tuple[str, int],
        saved: SavedConfig | None,
        downsample: int | None,
    ):
        """Takes a network.

        Args:
          config: of an inference with it.
          model: the network.
          variables: its parameters and running statistics.
          weights: where they are from, and their step.
          saved: of the checkpoint of a training; None for other weights.
          downsample: of those, how often their images were halved; None for unknown.
        """
        self.config, self.step = config, weights[1]
        self.weights = f"{os.path.abspath(weights[0])}, step {weights[1]}"
        self._model, self._saved, self._downsample = model, saved, downsample
        self._variables: dict[Mesh, Any] = {}
        self._first_variables = variables
        self._programs: dict[Any, Callable] = {}
        self.detector = read_detector(config.data)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers."""
        return self.detector.classes

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters ("params") and running statistics ("batch_stats"), float32."""
        return self._first_variables

    def predict(
        self, charge: np.ndarray | Event, *, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """Computes how probable each class is, pixel by pixel.

        Charges are given as they were measured, or multiplied by `data.charge_scale` of
        the training where it is not 1: the transformation that the network was trained
        with, and rows and columns that it needs beyond the image, are its own.

        Args:
          charge: [P, H, W], one event, or [B, P, H, W], of any real type; P is
            `detector.num_planes`, rows are drift ticks, columns wires. A sparse network
            looks at the pixels that are not 0. An `Event` stands for its charges, and
            for the sizes of its planes.
          batch_size: events computed together, of those of an array [B, P, H, W].

        Returns:
          [P, H, W, K] or [B, P, H, W, K] float32, which sum to 1, of the K `classes`:
          background, cosmic, neutrino unless it was trained for others. Pixels without
          charge are background where `config.mode.mask_empty_pixels` says so.

        Raises:
          UserError: another shape or type, a charge or a score that is not finite, or
            an event that was halved otherwise than those of the training.

        Examples:
          >>> tagger = ctjax.load("output/uresnet/first")
          >>> tagger.predict(events[3].charge).shape
          (3, 640, 1024, 3)
        """
        return self._of_arrays(charge, batch_size, score_image)

    def classify(
        self, charge: np.ndarray | Event, *, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """Computes the most probable class of each pixel.

        Args:
          charge: see `predict`.
          batch_size: see `predict`.

        Returns:
          [P, H, W] or [B, P, H, W] uint8, numbers of `classes`: 0 background, 1
          cosmic, 2 neutrino unless it was trained for others.

        Raises:
          UserError: see `predict`.
        """
        return self._of_arrays(charge, batch_size, class_image)

    def iterate(
        self, events: Events, *, batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[Event, np.ndarray]]:
        """Predicts events of files, which are read ahead.

        Args:
          events: opened by `ctjax.open`, halved as often as those of the training.
          batch_size: events computed together; a multiple of the number of devices is
            computed on all of them, otherwise the first one computes.

        Yields:
          Each event and its scores, [P, H, W, K] float32, see `predict`.

        Raises:
          LarcvFileError, UserError: an event cannot be read, or see `predict`.
        """
        for evaluated in self.evaluate(events, batch_size=batch_size):
            minibatch = evaluated.minibatch
            places = np.flatnonzero(minibatch.entries != PADDING).tolist()
            for place in places:
                event = events.read_entry(int(minibatch.entries[place]))
                yield event, self._image(score_image, evaluated, place, events)

    def evaluate(self, events: Events, *, batch_size: int) -> Iterator[Evaluated]:
        """Evaluates events of files, for those who need more than scores."""
        if not isinstance(events, Events):
            raise UserError(
                f"events: expected events of ctjax.open, got {type(events).__name__}"
            )
        self._check_events(events)
        _check_batch_size(batch_size)
        source = events.source

        def evaluated() -> Iterator[Evaluated]:
            # Of `events`, whose files stay open as long as somebody has it.
            yield from self._evaluate(
                source, events.entries, batch_size, self._with_sizes(events)
            )

        return evaluated()

    def export(
        self,
        path: str | os.PathLike,
        image_shape: ImageShape | None = None,
    ) -> None:
        """Writes a program that predicts without ctjax, wherever there is jax.

        It takes charges, [B, P, H, W] float32 of any number B of events, and returns
        what `predict` does, [B, P, H, W, K] float32; weights, transformation and mask
        are in it. CPUs, GPUs and TPUs run it.

        Args:
          path: file to write, StableHLO as `jax.export` serializes it. One that is
            there is replaced.
          image_shape: rows H and columns W; None for those of SBND, 1280 x 2048, halved
            as often as the images of the training.

        Raises:
          UserError: a sparse network, which takes lists of pixels and no images, or no
            shape of an image.
          OSError: the file cannot be written.

        Examples:
          >>> tagger.export("tagger.stablehlo", events.image_shape)
          >>> with open("tagger.stablehlo", "rb") as file:
          ...     program = jax.export.deserialize(bytearray(file.read()))
          >>> scores = program.call(np.stack([events[0].charge]))
        """
        if image_shape is None:
            halved = self.config.data.downsample
            image_shape = (FULL_IMAGE_SHAPE[0] >> halved, FULL_IMAGE_SHAPE[1] >> halved)
        model = self._model.clone(detector=self.detector)
        exporting.export(path, self.config, model, self.variables, image_shape)

    def __repr__(self) -> str:
        """Names network and weights."""
        number = count_parameters(self.variables["params"])
        name = self.config.network.name
        return f"<Tagger {name}, {number} parameters, {self.weights}>"

    def _of_arrays(
        self, charge: Any, batch_size: int, make_image: Callable[..., np.ndarray]
    ) -> np.ndarray:
        """Makes images of what the network says of one event or several."""
        voxels, image_shape, is_single = self._given(charge)
        detector = self.detector
        if isinstance(charge, Event):
            detector = self._with_sizes(charge)
        shapes = [image_shape] * len(voxels[0].planes)
        source = EventSource(GivenEvents(voxels, shapes), 0)
        _check_batch_size(batch_size)
        size = min(batch_size, len(voxels))
        images = [
            self._image(make_image, evaluated, place, source)
            for evaluated in self._evaluate(
                source, np.arange(len(voxels)), size, detector
            )
            for place in np.flatnonzero(evaluated.minibatch.entries != PADDING).tolist()
        ]
        return images[0] if is_single else np.stack(images)

    def _given(self, charge: Any) -> tuple[list[Voxels], tuple[int, int], bool]:
        """Returns charges as voxels, the images' shape and whether it is one event."""
        if isinstance(charge, Events):
            raise UserError(
                "charge: found events of ctjax.open, expected one of them or an array; "
                "tagger.iterate takes them all"
            )
        if isinstance(charge, Event):
            self._check_events(charge)
            return [charge.voxels[0]], charge.image_shape, True
        return given_voxels(charge, self.detector.num_planes)

    def _image(
        self,
        make_image: Callable[..., np.ndarray],
        evaluated: Evaluated,
        place: int,
        events: Events | EventSource,
    ) -> np.ndarray:
        is_masked = self.config.mode.mask_empty_pixels
        return make_image(evaluated, place, events.image_shape, is_masked)

    def _check_events(self, events: Event | Events) -> None:
        """Refuses other images than those of the training."""
        found, expected = events.detector.num_planes, self.detector.num_planes
        if found != expected:
            raise UserError(
                f"events of {found} planes, expected the {expected} of {self.weights}; "
                "ctjax.open takes planes=[...]"
            )
        if self._saved is not None:
            data = dataclasses.replace(
                self.config.data,
                downsample=events.downsample,
                charge_scale=events.data.charge_scale,
            )
            config = dataclasses.replace(self.config, data=data)
            saved_config.check_images(self._saved, config, self.weights)
        elif self._downsample not in (None, events.downsample):
            raise UserError(
                f"events halved {events.downsample} times, expected {self._downsample} "
                "as the configuration's data.downsample; allow_other_images=True takes "
                "them"
            )

    def _with_sizes(self, events: Event | Events) -> Detector:
        """Returns the network's detector with the sizes of the events' planes."""
        sizes = events.detector.plane_shapes
        return dataclasses.replace(self.detector, plane_shapes=sizes)

    def _evaluate(
        self,
        source: EventSource,
        entries: np.ndarray,
        batch_size: int,
        detector: Detector,
    ) -> Iterator[Evaluated]:
        """Evaluates minibatches, one ahead of the one that is handed out."""
        mesh = _mesh_for(batch_size)
        padded = np.full(-(-len(entries) // batch_size) * batch_size, PADDING)
        padded[: len(entries)] = entries
        minibatches = iter(padded.reshape(-1, batch_size))
        config = self.config
        with parts.read_events(config, source, minibatches, mesh) as reader:
            started = (self._start(minibatch, mesh, detector) for minibatch in reader)
            for minibatch, results in one_behind(started):
                evaluated = _fetch(minibatch, results, source)
                yield evaluated
                # The arrays of its images are filled again.
                reader.release(minibatch)

    def _start(
        self, minibatch: HostMinibatch, mesh: Mesh, detector: Detector
    ) -> tuple[HostMinibatch, dict[str, jax.Array]]:
        """Starts to evaluate a minibatch, and does not wait."""
        padded = pad_to_network(minibatch, self._model)
        on_host = parts.step_arrays(padded)
        arrays = sharding.distribute(on_host, mesh)
        if mesh not in self._variables:
            self._variables[mesh] = sharding.replicate(self._first_variables, mesh)
        variables = self._variables[mesh]
        key = mesh, detector, *(leaf.shape for leaf in jax.tree.leaves(arrays))
        if key not in self._programs:
            # Of sites no image is made.
            shape = (0, 0) if padded.image is None else padded.image.shape[-2:]
            options = parts.make_step_options(self.config, shape, detector)
            model = self._model.clone(detector=detector)
            step = make_eval_step(
                model=model, options=options, with_scores=True, with_loss=False
            )
            compiled = compile_eval_step(step, mesh, with_scores=True, with_loss=False)
            program, _ = compile_ahead("prediction", compiled, variables, arrays)
            self._programs[key] = program
        return minibatch, self._programs[key](variables, arrays)


def _check_batch_size(batch_size: Any) -> None:
    is_number = isinstance(batch_size, int | np.integer)
    if not is_number or isinstance(batch_size, bool) or batch_size < 1:
        raise UserError(f"batch_size: expected at least 1, got {batch_size!r}")


def _mesh_for(batch_size: int) -> Mesh:
    """Returns all devices where they can share a minibatch, else the first."""
    mesh = sharding.make_mesh()
    if batch_size % mesh.size == 0:
        return mesh
    return sharding.make_mesh(list(mesh.devices.flat[:1]))


def _fetch(
    minibatch: HostMinibatch, results: dict[str, jax.Array], source: EventSource
) -> Evaluated:
    """Fetches the results of a minibatch, or says which event has none."""
    is_bad = (np.asarray(results["is_finite"]) == 0) & (minibatch.entries != PADDING)
    for entry in minibatch.entries[is_bad].tolist():
        raise UserError(
            f"found class scores that are not finite, expected numbers: entry {entry} "
            f"of {source.file_of(entry)}"
        )
    arrays = {name: sharding.local(results[name]) for name in predictions.NEEDED}
    if minibatch.sites is None:
        height, width = source.image_shape
        arrays = {name: a[:, :, :height, :width] for name, a in arrays.items()}
    return Evaluated(minibatch, arrays)
