"""Each field of the section `mode.optimizer`, changed, changes what it should."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.small_runs import entries_of, logits_of, loss_by_hand

pytestmark = pytest.mark.xdist_group("options_of_optimizer")

RATE = 1e-3


def moved(runs, **changes):
    """What one step has added to the parameters."""
    fields = {"run__iterations": 1, "mode__optimizer__learning_rate": RATE, **changes}
    first, trained = runs.train().params, runs.train(**fields).params
    return {path: trained[path] - leaf for path, leaf in first.items()}


@pytest.fixture(scope="module")
def gradient(runs):
    """Of the first step: in plain descent of rate 1 the parameters move by minus it."""
    step = moved(runs, mode__optimizer__learning_rate=1.0)
    return {path: -leaf for path, leaf in step.items()}


def norm(array):
    return np.sqrt((array.astype(np.float64) ** 2).sum())


# The first step of every rule, from its paper: gradient g, parameter p.
FIRST_STEPS = {
    "sgd": lambda g, p: g,
    # Both means are (1 - beta) g and (1 - beta) g^2, corrected by the same factor.
    "adam": lambda g, p: g / (np.abs(g) + 1e-8),
    # torch's: the mean of squares is 0.01 g^2, and 1e-4 is added to its root.
    "rmsprop": lambda g, p: g / (0.1 * np.abs(g) + 1e-4),
    "adagrad": lambda g, p: g / (np.abs(g) + 1e-10),
    # The mean of squares is 0.1 g^2; no step has been made yet.
    "adadelta": lambda g, p: g * np.sqrt(1e-6) / np.sqrt(0.1 * g**2 + 1e-6),
    # Of the means 0.1 g and 0.001 g^2, as long as the parameters; as it is where these
    # are 0.
    "lamb": lambda g, p: (u := 0.1 * g / (0.001**0.5 * np.abs(g) + 1e-6)) * trust(p, u),
    "lars": lambda g, p: g * (0.001 * trust(p, g) if norm(p) and norm(g) else 1),
}


def trust(parameter, update):
    both = norm(parameter) and norm(update)
    return norm(parameter) / norm(update) if both else 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST_STEPS)
def test_name(runs, gradient, name):
    rate = 2.0**-3
    step = moved(runs, mode__optimizer__name=name, mode__optimizer__learning_rate=rate)
    first = runs.train().params
    for path, g in gradient.items():
        expected = -rate * FIRST_STEPS[name](g, first[path])
        np.testing.assert_allclose(
            step[path], expected, rtol=5e-3, atol=1e-6 + 1e-4 * np.abs(expected).max()
        )


def test_learning_rate(runs, gradient):
    step = moved(runs)
    for path, g in gradient.items():
        np.testing.assert_allclose(step[path], -RATE * g, rtol=1e-2, atol=1e-6)
    run = runs.train(run__iterations=1, mode__optimizer__learning_rate=RATE)
    assert run.scalars("train")["learning_rate"] == {0: pytest.approx(RATE)}


def test_gradient_accumulation(runs, gradient):
    """Two minibatches of four make the step of one of eight: the mean of gradients."""
    fields = {"run__iterations": 1, "mode__optimizer__learning_rate": 1.0}
    eight = runs.train(run__minibatch_size=8, **fields)
    twice = runs.train(mode__optimizer__gradient_accumulation=2, **fields)
    assert twice.losses == pytest.approx(eight.losses, rel=1e-5)
    for path, leaf in eight.params.items():
        # The first convolution's output is 0 but for rounding where there is no charge,
        # and the sign of what is rounded decides the slope of the activation.
        if path[0] != "initial_convolution":
            scale = np.abs(leaf).max()
            np.testing.assert_allclose(
                twice.params[path], leaf, rtol=1e-4, atol=1e-5 * scale
            )
    # Another step than that of the first four events alone.
    four = runs.train(**fields)
    assert any(
        not np.allclose(twice.params[path], leaf, rtol=1e-2)
        for path, leaf in four.params.items()
    )


def test_bfloat16_gradients(runs):
    """Biases begin at 0: after one step of rate 1 they are minus the gradients."""

    def biases(**changes):
        params = runs.train(
            run__iterations=1, mode__optimizer__learning_rate=1.0, **changes
        ).params
        return np.concatenate([leaf for path, leaf in params.items() if "bias" in path])

    def are_rounded(values):
        return values == np.asarray(jnp.asarray(values, jnp.bfloat16), np.float32)

    plain = biases()
    rounded = biases(mode__optimizer__bfloat16_gradients=True)
    assert np.all(are_rounded(rounded)) and not np.any(are_rounded(plain))
    np.testing.assert_allclose(rounded, plain, rtol=0.05, atol=0.02 * abs(plain).max())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["none", "light", "even", "focal"])
@pytest.mark.parametrize("only", [False, True])
def test_loss_balance_scheme(runs, truth, scheme, only):
    """Of training and of validation, against the formulas in numpy."""
    image, label = truth
    run = runs.train(
        mode__optimizer__loss_balance_scheme=scheme,
        mode__optimizer__loss_charged_pixels_only=only,
        data__aux_file=runs.file,
        run__aux_iterations=1,
    )
    expected = []
    for step in range(2):
        at = entries_of(step)
        logits = logits_of(run.config, run.variables, image[at])
        expected.append(loss_by_hand(logits, label[at], image[at], scheme, only))
    assert run.losses == pytest.approx(expected, rel=1e-4)
    assert run.column("val_metrics", "loss") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scheme", ["light", "focal"])
def test_loss_average(runs, truth, scheme):
    image, label = truth
    run = runs.train(
        mode__optimizer__loss_balance_scheme=scheme,
        mode__optimizer__loss_average="pixels",
        run__iterations=1,
    )
    at = entries_of(0)
    logits = logits_of(run.config, run.variables, image[at])
    arguments = logits, label[at], image[at], scheme
    expected = loss_by_hand(*arguments, average="pixels")
    assert run.losses == pytest.approx([expected], rel=1e-4)
    assert expected != pytest.approx(loss_by_hand(*arguments), rel=0.1)


def test_class_weights(runs, truth):
    image, label = truth
    fields = {"mode__optimizer__loss_balance_scheme": "light", "run__iterations": 1}
    found = runs.train(mode__optimizer__class_weights="2,0,5", **fields)
    at = entries_of(0)
    logits = logits_of(found.config, found.variables, image[at])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    weights = np.array([2, 0, 5])[label[at]]
    own = np.take_along_axis(log_p, label[at][..., None].astype(int), -1)[..., 0]
    expected = -(weights * own).sum((0, 2, 3)) / weights.sum((0, 2, 3))
    assert found.losses == pytest.approx([expected.sum()], rel=1e-5)
    assert found.losses != pytest.approx(runs.train(**fields).losses, rel=0.01)


def test_loss_charged_pixels_only(runs):
    # Its value is tested beside the schemes.
    few = runs.train(mode__optimizer__loss_charged_pixels_only=True)
    assert few.losses[0] > 1.5 * runs.train().losses[0]
    words = "not in the loss (mode.optimizer.loss_charged_pixels_only=True)"
    assert any(words in message for message in few.messages)


def test_loss_charged_pixels_only__of_inference(runs):
    """Inference reports no loss; what it says about the rule is all that shows."""
    run = runs.infer(mode__optimizer__loss_charged_pixels_only=True)
    words = "not in the loss (mode.optimizer.loss_charged_pixels_only=True)"
    assert any(words in message for message in run.messages)
    assert run.result == runs.infer().result


def test_lr_schedule(runs):
    def rates(schedule):
        run = runs.train(
            run__iterations=3,
            mode__optimizer__lr_schedule=schedule,
            mode__optimizer__learning_rate=0.01,
        )
        return list(run.scalars("train")["learning_rate"].values())

    assert rates("flat") == pytest.approx([0.01] * 3, rel=1e-5)
    # Two steps an epoch: half way from 1e-4 up after one step, and then flat.
    climb = [1e-4, 5.05e-3, 0.01]
    assert rates("warmup_flat_decay") == pytest.approx(climb, rel=1e-5)
    # Up to the peak in the first 30 % of the steps, a part of one that is cut to none,
    # and down by a cosine: the rates of three steps fall.
    first, second, third = rates("one_cycle")
    assert 0.01 >= first > second > third > 0
