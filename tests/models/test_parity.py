"""Against CosmicTagger's own torch network: every variant under CTJAX_SHARED.

How gradients are compared. The gradient jumps where an activation crosses the kink of
its LeakyReLU or another pixel of a window becomes its maximum. Of the 1.3 million
activations of a variant a handful lie within float32 rounding of such a jump, and one
of them can carry 1e-3 of the whole gradient. Which side they fall on is not part of
the network: rounding the initial parameters differently moves them, and torch's
rounding is one such draw. So the difference between torch's gradient and ours is first
explained, as far as it goes, by differences that our own gradient makes when the
parameters change by a unit in the last place (a few tens of directions, each taken at
most once, for the tens of thousands of numbers of all schemes together); what is left
must vanish. This is no wider than it must be: a scaled or transposed tensor of the
golden gradient lies outside of those directions.
"""

import functools
import json
import os
import pathlib

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from ctjax.config import fields as config_fields
from ctjax.config import resolve
from ctjax.learning import losses, metrics
from ctjax.models import UResNet, torch_weights
from tests.conftest import PARITY_PROPERTY

TOLERANCE = 1e-4
GRADIENT_TENSOR_TOLERANCE = 1e-3  # small tensors of a gradient: sums that cancel
LEARNING_RATE = 3e-4
ADAM_STEPS = 3
SPREAD_FACTOR = 3
SPREAD_SAMPLES = 5  # of each of SPREADS
SPREADS = ((1.2e-7, 10), (2.4e-7, 11), (1.2e-7, 12), (2.4e-7, 13))
SPREAD_ROUNDS = (2, 4)  # of SPREADS: more are drawn where the first do not explain all
SAMPLES_OF_A_ROUND = 16
ROUNDS = ((1.2e-7, 0), (1.2e-7, 1), (2.4e-7, 2), (2.4e-7, 3), (4.8e-7, 4))
"""Relative size of the perturbations (a unit in the last place is 1.2e-7), seed.

Few activations change sides under small ones, which keeps the fit exact; torch's own
rounding may be larger.
"""


def _golden_folder() -> pathlib.Path:
    return pathlib.Path(os.environ.get("CTJAX_SHARED", "")) / "golden/network"


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        names = []
        if os.environ.get("CTJAX_SHARED"):
            names = sorted(path.stem for path in _golden_folder().glob("*.npz"))
            assert names, f"no golden variant in {_golden_folder()}"
        unset = pytest.mark.skip(reason="CTJAX_SHARED does not name the shared folder")
        metafunc.parametrize(
            "variant",
            [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in names]
            or [pytest.param("none", marks=unset)],
            scope="module",  # all tests of one variant follow each other
        )


class Variant:
    """A golden file and ctjax's network on the same weights and pixels."""

    def __init__(self, path: pathlib.Path):
        with np.load(path) as file:
            self.golden = {name: file[name] for name in file.files}
        self.schemes = [s.value for s in config_fields.LossBalanceScheme]
        self.schemes = [s for s in self.schemes if f"loss/{s}" in self.golden]
        self.model = UResNet(network_of(json.loads(str(self.golden["config"]))))
        image = jnp.asarray(self.golden["input"])
        label = jnp.asarray(self.golden["label"])
        mask = jnp.ones(image.shape[0])
        like = jax.eval_shape(self.model.init, jax.random.key(0), image)
        self.initial = torch_weights.to_variables(self.group("state"), like)
        self.params, self.unravel = jax.flatten_util.ravel_pytree(
            self.initial["params"]
        )
        self.params = np.asarray(self.params)
        self.stats = self.initial.get("batch_stats", {})
        self.tensors = {}
        first = 0
        for keys, leaf in jax.tree_util.tree_leaves_with_path(self.initial["params"]):
            name = torch_weights.torch_name(("params", *(key.key for key in keys)))
            self.tensors[name] = slice(first, first + leaf.size)
            first += leaf.size

        def variables(params, stats):
            stats = {"batch_stats": stats} if stats else {}
            return {"params": self.unravel(params), **stats}

        def forward(params, stats):
            def logits_and_stats(params):
                return self.model.apply(
                    variables(params, stats), image, train=True, mutable=["batch_stats"]
                )

            logits, pullback, updated = jax.vjp(logits_and_stats, params, has_aux=True)
            results = []
            for scheme in self.schemes:
                loss_fn = losses.make_loss(config_fields.LossBalanceScheme(scheme))
                results.append(jax.value_and_grad(loss_fn)(logits, label, mask))
            return logits, updated.get("batch_stats", {}), results, pullback

        forward = jax.jit(forward)
        # Apart from the forward pass, so that it is compiled once for all schemes.
        backward = jax.jit(lambda pullback, cotangent: pullback(cotangent)[0])

        def train(params, stats, schemes=self.schemes):
            """Logits, statistics, losses [S] and gradients [S, N], as numpy arrays."""
            logits, stats, results, pullback = forward(params, stats)
            wanted = [results[self.schemes.index(scheme)] for scheme in schemes]
            gradient = np.stack([backward(pullback, part) for _, part in wanted])
            loss = np.array([float(loss) for loss, _ in wanted])
            return np.asarray(logits), stats, loss, gradient

        def evaluate(params, stats):
            logits = self.model.apply(variables(params, stats), image)
            values = metrics.event_metrics(jnp.argmax(logits, -1), label)
            return logits, metrics.mean_of(*metrics.sum_metrics(values, mask))

        self.drawn = []
        self.drawn_adam = []
        self.train = train
        self.evaluate = jax.jit(evaluate)

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """The golden arrays under `prefix/`, by the rest of their names."""
        return {
            name.removeprefix(f"{prefix}/"): array
            for name, array in self.golden.items()
            if name.startswith(f"{prefix}/")
        }

    def is_dead(self, name: str) -> bool:
        """Whether a tensor is the bias of a convolution before batch normalization."""
        return (
            name.endswith(".conv.bias")
            and name.replace(".conv.bias", ".norm.running_mean") in self.torch_state
        )

    @functools.cached_property
    def torch_state(self):
        return torch_weights.from_variables(self.initial)

    @functools.cached_property
    def trained(self):
        return self.train(self.params, self.stats)

    @functools.cached_property
    def evaluated(self):
        return jax.tree.map(np.asarray, self.evaluate(self.params, self.stats))

    @functools.cached_property
    def golden_gradient(self):
        """[S, N] in the order of the raveled parameters."""
        like = {"params": self.initial["params"]}
        rows = []
        for scheme in self.schemes:
            tree = torch_weights.to_variables(self.group(f"grad/{scheme}"), like)
            rows.append(jax.flatten_util.ravel_pytree(tree["params"])[0])
        return np.asarray(rows, np.float64)

    @functools.cached_property
    def live(self):
        """[N] whether a parameter has a gradient at all."""
        live = np.ones(self.params.size, bool)
        for name, where in self.tensors.items():
            live[where] = not self.is_dead(name)
        return live

    def perturbed(self, size: float, seed: int, number: int):
        random = np.random.default_rng(seed)
        for _ in range(number):
            noise = 1 + size * random.uniform(-1, 1, self.params.shape)
            yield (self.params * noise).astype(np.float32)

    def directions(self, rounds: int):
        """[rounds x 16, S, N] differences of our gradient under perturbations."""
        for size, seed in ROUNDS[len(self.drawn) // SAMPLES_OF_A_ROUND : rounds]:
            for params in self.perturbed(size, seed, SAMPLES_OF_A_ROUND):
                gradient = self.train(params, self.stats)[3]
                self.drawn.append(gradient - self.trained[3])
        return np.stack(self.drawn[: rounds * SAMPLES_OF_A_ROUND])

    def adam(self, params):
        """Three steps; returns the state by torch names, and the losses."""
        optimizer = optax.adam(LEARNING_RATE)
        state, stats, values = optimizer.init(params), self.stats, []
        for _ in range(ADAM_STEPS):
            _, stats, loss, gradient = self.train(params, stats, ["light"])
            updates, state = optimizer.update(gradient[0], state)
            params = optax.apply_updates(params, updates)
            values.append(loss[0])
        tree = {"params": self.unravel(params), "batch_stats": stats}
        return torch_weights.from_variables(tree), np.array(values)

    @functools.cached_property
    def adam_result(self):
        return self.adam(self.params)

    def adam_spread(self, rounds: int):
        """How far the last bit of the parameters moves state and losses."""
        state, values = self.adam_result
        for size, seed in SPREADS[len(self.drawn_adam) // SPREAD_SAMPLES : rounds]:
            for params in self.perturbed(size, seed, SPREAD_SAMPLES):
                other, losses_of_other = self.adam(params)
                moved = {name: sizes(other[name] - state[name]) for name in state}
                self.drawn_adam.append((moved, np.abs(losses_of_other - values)))
        drawn = self.drawn_adam[: rounds * SPREAD_SAMPLES]
        of_state = {
            name: np.max([moved[name] for moved, _ in drawn], 0) for name in state
        }
        return of_state, np.max([of_losses for _, of_losses in drawn], 0)


def sizes(array) -> np.ndarray:
    """Root mean square and largest magnitude."""
    array = np.asarray(array, np.float64)
    return np.array([np.sqrt(np.mean(np.square(array))), np.abs(array).max()])


def network_of(fields: dict) -> config_fields.Network:
    fields = dict(fields)
    assert fields.pop("conv_mode") == "conv_2D"
    return resolve.build(config_fields.Network, fields)


@pytest.fixture(scope="module")
def golden(variant) -> Variant:
    return Variant(_golden_folder() / f"{variant}.npz")


@pytest.fixture
def report(variant, record_property):
    def add(column: str, number: float, note: str = "") -> None:
        record_property(PARITY_PROPERTY, (variant, column, f"{number:.1e}{note}"))

    return add


def relative(value, expected) -> float:
    expected = np.asarray(expected, np.float64)
    largest = np.abs(expected).max()
    return float(np.abs(value - expected).max() / max(largest, 1e-30))


def test_state_survives_the_conversion(golden):
    for name, tensor in golden.torch_state.items():
        np.testing.assert_array_equal(tensor, golden.golden[f"state/{name}"])


def test_logits_of_evaluation(golden, report):
    error = relative(
        np.moveaxis(golden.evaluated[0], -1, 2), golden.golden["logits_eval"]
    )
    report("logits eval", error)
    assert error < TOLERANCE


def test_metrics(golden, report):
    names = [str(name) for name in golden.golden["metrics_names"]]
    values = metrics.named(golden.evaluated[1])
    assert set(names) == set(values)
    error = max(
        abs(values[name] - expected)
        for name, expected in zip(names, golden.golden["metrics_values"], strict=True)
    )
    report("metrics (abs.)", error)
    assert error < 1e-6


def test_logits_of_training(golden, report):
    error = relative(
        np.moveaxis(golden.trained[0], -1, 2), golden.golden["logits_train"]
    )
    report("logits train", error)
    assert error < TOLERANCE


def test_running_statistics(golden, report):
    expected = {
        name: tensor
        for name, tensor in golden.group("state_after_forward").items()
        if not name.endswith("num_batches_tracked")
    }
    found = torch_weights.from_variables({"batch_stats": golden.trained[1]})
    assert set(found) == {name for name in expected if ".running_" in name}
    if not found:
        report("running statistics", 0.0, " (none)")
        return
    error = max(relative(found[name], expected[name]) for name in found)
    report("running statistics", error)
    assert error < TOLERANCE


def test_losses(golden, report):
    assert golden.schemes
    for scheme, loss in zip(golden.schemes, golden.trained[2], strict=True):
        error = abs(loss / float(golden.golden[f"loss/{scheme}"]) - 1)
        report(f"loss {scheme}", error)
        assert error < TOLERANCE


def test_dead_biases(golden):
    # The normalization subtracts them again. Ours have no gradient; torch's is
    # rounding noise, which must be nothing next to that of the same kernel.
    assert not np.any(golden.trained[3][:, ~golden.live])
    for row in golden.golden_gradient:
        for name, where in golden.tensors.items():
            if golden.is_dead(name):
                kernel = golden.tensors[name.replace(".bias", ".weight")]
                assert np.abs(row[where]).max() < 1e-4 * np.abs(row[kernel]).max()


def tensor_errors(golden: Variant, difference) -> tuple[float, float, str]:
    """Relative L2 of the whole (of the worst scheme), of the worst tensor, its name."""
    total, worst = 0.0, (0.0, "")
    for row, expected in zip(difference, golden.golden_gradient, strict=True):
        whole = np.linalg.norm(expected[golden.live])
        total = max(total, np.linalg.norm(row[golden.live]) / whole)
        for name, where in golden.tensors.items():
            if not golden.is_dead(name):
                norm = np.linalg.norm(expected[where])
                worst = max(worst, (np.linalg.norm(row[where]) / norm, name))
    return total, *worst


def explained(golden: Variant, difference, directions):
    """What is left of `difference` [S, N] after fitting `directions` [J, S, N]."""
    norms = np.linalg.norm(golden.golden_gradient[:, golden.live], axis=1)
    weight = golden.live / norms[:, None]
    matrix = (directions * weight).reshape(len(directions), -1).T
    # Each direction at most once, either way: no small one is blown up to fit noise.
    q, r = np.linalg.qr(matrix)
    fit = scipy.optimize.lsq_linear(r, q.T @ (difference * weight).ravel(), (-1, 1))
    return difference - np.tensordot(fit.x, directions, 1)


def compare_gradient(golden: Variant):
    """(before, after, rounds): errors as of `tensor_errors`."""

    def is_within(errors, part=1.0):
        return (
            errors[0] < part * TOLERANCE
            and errors[1] < part * GRADIENT_TENSOR_TOLERANCE
        )

    difference = golden.golden_gradient - golden.trained[3]
    before = after = tensor_errors(golden, difference)
    rounds = 0
    while not is_within(after, 0.6 if rounds else 1) and rounds < len(ROUNDS):
        rounds += 1
        rest = explained(golden, difference, golden.directions(rounds))
        after = tensor_errors(golden, rest)
    return before, after, rounds, is_within(after)


def test_gradients(golden, report):
    before, after, rounds, passed = compare_gradient(golden)
    note = f" ({rounds * SAMPLES_OF_A_ROUND} directions)" if rounds else ""
    report("gradient, as is", before[0])
    report("gradient, kinks explained", after[0], note)
    report("gradient, worst tensor", after[1], f" {after[2]}")
    assert passed, (before, after)


def compare_adam(golden: Variant):
    """Returns errors of losses and state, and the list of what is out of bounds."""
    state, values = golden.adam_result
    expected = golden.group("state_after_adam")
    drift = {}
    for name in state:
        if golden.is_dead(name):
            # Torch's Adam turns the noise of a dead bias into full steps, which reach
            # the running mean (and nothing else) at most as they are.
            drift[name] = ADAM_STEPS * LEARNING_RATE * 1.01
            drift[name.replace(".conv.bias", ".norm.running_mean")] = drift[name]
    difference = {name: state[name] - expected[name] for name in state}
    # Adam's first step is the sign of the gradient. Where torch's and ours differ by
    # half of it (all by kinks, which `test_gradients` shows), the step may be opposite.
    light = golden.schemes.index("light")
    gradient = golden.golden_gradient[light]
    opposite = np.abs(golden.trained[3][light] - gradient) > np.abs(gradient) / 2
    assert np.mean(opposite[golden.live]) < 0.02
    transposed = torch_weights.from_variables(
        {"params": golden.unravel(opposite.astype(np.float32))}
    )
    for name, is_opposite in transposed.items():
        if not golden.is_dead(name):
            reach = is_opposite * 2 * ADAM_STEPS * LEARNING_RATE
            off = difference[name]
            difference[name] = np.sign(off) * np.maximum(np.abs(off) - reach, 0)
    error = {name: sizes(difference[name]) for name in state}
    scale = {name: sizes(expected[name]) for name in state}
    loss_error = np.abs(values - golden.golden["adam_losses"])
    loss_scale = np.abs(golden.golden["adam_losses"])

    def out_of_bounds(spread, loss_spread):
        failed = [
            name
            for name in state
            if np.any(
                error[name]
                > TOLERANCE * scale[name]
                + drift.get(name, 0.0)
                + SPREAD_FACTOR * spread.get(name, 0.0)
            )
        ]
        if np.any(loss_error > TOLERANCE * loss_scale + SPREAD_FACTOR * loss_spread):
            failed.append("adam_losses")
        return failed

    failed, used_spread = out_of_bounds({}, 0.0), False
    for rounds in SPREAD_ROUNDS:
        if failed:
            failed, used_spread = out_of_bounds(*golden.adam_spread(rounds)), True
    state_error = max(
        np.abs(state[name] - expected[name]).max() / scale[name][1]
        for name in state
        if name not in drift
    )
    return max(loss_error / loss_scale), state_error, used_spread, failed


def test_adam(golden, report):
    # The kinks again, now fed back: where the gradient of a parameter is small, Adam's
    # step is its sign. What the last bit of the initial parameters leaves open, and
    # only that, is open here.
    loss_error, state_error, used_spread, failed = compare_adam(golden)
    report("adam losses", loss_error)
    report("adam state", state_error, " (within spread)" if used_spread else "")
    state, _ = golden.adam_result
    moved, missed = 0.0, 0.0
    for name in golden.tensors:
        if not golden.is_dead(name):
            expected = golden.golden[f"state_after_adam/{name}"]
            moved += np.square(expected - golden.golden[f"state/{name}"]).sum()
            missed += np.square(expected - state[name]).sum()
    report("adam update", np.sqrt(missed / moved))
    assert not failed


def test_full_size_networks(shared_folder):
    file = shared_folder / "golden/network/parameter_counts.json"
    networks = json.loads(file.read_text())
    assert networks
    for expected in networks.values():
        network = network_of(expected["config"])
        side = 2**network.depth
        image = jax.ShapeDtypeStruct((1, 3, side, side), jnp.float32)
        shapes = jax.eval_shape(UResNet(network).init, jax.random.key(0), image)
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        assert count == expected["parameters"]
        # One element, broadcast: from_variables sees the shapes, nothing is filled.
        tensors = torch_weights.from_variables(
            jax.tree.map(
                lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes
            )
        )
        found = {name: list(tensor.shape) for name, tensor in tensors.items()}
        assert found == {
            name: shape
            for name, shape in expected["shapes"].items()
            if not name.endswith("num_batches_tracked")
        }
