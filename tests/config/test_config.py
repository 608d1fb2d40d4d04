"""Configurations: what resolves, and what is refused with which words."""

import dataclasses
import importlib.util
import operator
import random
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctjax.base import errors
from ctjax.config import describe, fields, resolve
from ctjax.config.file_names import file_patterns
from tests.support import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_file_resolves(path):
    result = resolve.resolve(load(path))
    assert isinstance(result, fields.Config)
    assert result.output_dir == f"output/{result.network.name}/test"


def test_config_files_differ():
    networks = {p.stem: resolve.resolve(load(p)).network for p in CONFIGS}
    names = ("uresnet", "scc21", "scc21_master", "a21", "polaris")
    assert {"default", *names} <= set(networks)
    assert networks["default"] == networks["uresnet"]
    assert len({networks[name] for name in names}) == len(names)


def test_the_competition_alone_lets_the_network_guess_where_there_is_no_charge():
    masked = {p.stem: resolve.resolve(load(p)).mode.mask_empty_pixels for p in CONFIGS}
    assert not masked.pop("scc21") and not masked.pop("scc21_master")
    assert masked and all(masked.values())


def test_defaults_survive_their_dictionary():
    assert resolve.build(fields.Config, fields.default_config()) == fields.Config()


def test_values_that_stand_for_others():
    result = resolve.resolve({"run": {"id": "a", "minibatch_size": 6}})
    assert result.run.iterations == resolve.DEFAULT_ITERATIONS
    assert result.run.aux_minibatch_size == 6
    assert result.output_dir == "output/uresnet/a"
    result = resolve.resolve(
        {
            "run": {"iterations": 3, "aux_minibatch_size": 4},
            "mode": {"name": "inference"},
            "output_dir": "elsewhere",
        }
    )
    assert (result.run.iterations, result.run.aux_minibatch_size) == (3, 4)
    assert result.output_dir == "elsewhere"
    whole_file = resolve.resolve({"mode": {"name": "inference"}})
    assert whole_file.run.iterations is None


def nested(name, value):
    for word in reversed(name.split(".")):
        value = {word: value}
    return value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("network.dept", 3, "network.dept: no such field; did you mean network.depth?"),
        ("runn", {}, "runn: no such field; did you mean run?"),
        ("zzzz", 1, "zzzz: no such field"),
        (
            "mode.optimizer.learning_rat",
            1.0,
            "did you mean mode.optimizer.learning_rate?",
        ),
        (
            "network.connections",
            "add",
            "network.connections: expected one of concat, sum, ",
        ),
        ("network.depth", "3", "network.depth: expected int, got '3'"),
        ("network.depth", 3.0, "network.depth: expected int, got 3.0"),
        ("network.depth", True, "network.depth: expected int, got True"),
        ("network.bias", 1, "network.bias: expected bool, got 1"),
        ("network.depth", None, "network.depth: expected int, got None"),
        ("network.depth", 0, "network.depth: expected at least 1, got 0"),
        ("data.downsample", -1, "data.downsample: expected at least 0, got -1"),
        (
            "mode.optimizer.learning_rate",
            -0.1,
            "mode.optimizer.learning_rate: expected at least 0, got -0.1",
        ),
        (
            "mode.optimizer.learning_rate",
            float("nan"),
            "mode.optimizer.learning_rate: expected at least 0, got nan",
        ),
        ("network", 3, "network: expected a group of fields, got 3"),
        (
            "network.filter_size_deepest",
            4,
            "network.filter_size_deepest: expected an odd number, got 4",
        ),
        ("data.file", None, "data.file: expected a larcv3 file with mode.name=train"),
        (
            "data.file",
            "",
            "data.file: expected a name, got an empty one; leave it out for simulated "
            "events, in quickstart only",
        ),
        (
            "run.iterations",
            0,
            "run.iterations: expected at least 1, got 0; leave it out for 500, or for "
            "inference the whole file",
        ),
        (
            "run.max_time",
            0,
            "run.max_time: expected at least 0.001, got 0; leave it out for no limit",
        ),
        ("data.io_threads", "4", "data.io_threads: expected int, got '4'"),
        ("network.connections", [1], "network.connections: expected one of"),
    ],
)
def test_what_is_refused(name, value, message):
    with pytest.raises(errors.ConfigError) as error:
        resolve.resolve(nested(name, value))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        ("run.iterations", 0),
        ("run.aux_minibatch_size", 0),
        ("run.max_time", 0),
        ("run.step_timeout", 0),
        ("data.file", ""),
        ("data.aux_file", ""),
        ("data.io_threads", 0),
        ("mode.weights_location", ""),
        ("output_dir", ""),
    ],
)
def test_none_alone_says_nothing(name, empty):
    """Numbers and names that once meant the same are refused with advice."""
    with pytest.raises(errors.ConfigError, match=rf"^{name}: .*; leave it out for \w"):
        resolve.resolve(nested(name, empty))
    unset = {"data": {"synthetic": True}}
    section, _, field = name.rpartition(".")
    (unset.setdefault(section, {}) if section else unset)[field] = None
    set_nothing = resolve.resolve({"data": {"synthetic": True}})
    if name == "data.file":
        set_nothing = resolve.resolve({"data": {"synthetic": True, "file": None}})
    assert resolve.resolve(unset) == set_nothing


def test_every_option_that_may_be_unset_can_be_set_in_a_file():
    config = fields.default_config()
    config.run.iterations = 5
    config.run.max_time = 60
    config.output_dir = "here"
    config.data.file = None
    config.data.synthetic = True
    result = resolve.resolve(config)
    assert (result.run.iterations, result.run.max_time) == (5, 60.0)
    assert (result.output_dir, result.data.file) == ("here", None)
    with pytest.raises(TypeError, match="iterations"):
        config.run.iterations = "many"


def test_an_integer_is_a_float_where_one_is_expected():
    rate = resolve.resolve(
        {"mode": {"optimizer": {"learning_rate": 1}}}
    ).mode.optimizer.learning_rate
    assert isinstance(rate, float) and rate == 1


FIELDS = [
    "run.iterations",
    "run.precision",
    "run.distributed",
    "data.file",
    "data.densify",
    "network",
    "network.depth",
    "network.weight_decay",
    "mode.name",
    "mode.optimizer",
    "output_dir",
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


@given(name=st.sampled_from(FIELDS), value=VALUES)
def test_any_value_resolves_or_is_a_config_error(name, value):
    try:
        resolved = resolve.resolve(nested(name, value))
    except errors.ConfigError as error:
        assert str(error).startswith(name)
        return
    found = operator.attrgetter(name)(resolved)
    # What is empty stands for another value, and a group for its fields.
    if value and not dataclasses.is_dataclass(found):
        assert found == value


def test_file_patterns():
    data = fields.Data(data_directory="/data")
    assert file_patterns(data, "a.h5, b*.h5,") == ["/data/a.h5", "/data/b*.h5"]
    assert file_patterns(data, "") == []
    assert file_patterns(data, "/elsewhere/c.h5") == ["/elsewhere/c.h5"]


def test_description_names_every_field():
    text = describe.describe(fields.Config())
    for word in ("minibatch_size", "loss_balance_scheme", "concat", "output_dir"):
        assert word in text
    assert "  max_time....................: not set\n" in text


def test_help_says_what_stands_for_a_field_that_is_not_set():
    text = describe.help_text("train")
    assert "  ctjax train --config scc21 data.file=events.h5\n" in text
    assert "  run.max_time=None  (float, at least 0.001)\n" in text
    assert "      larcv3 file for validation (not set: no validation)\n" in text


def test_the_page_of_the_documentation_is_up_to_date():
    result = subprocess.run(
        [sys.executable, "-m", "ctjax.config.describe"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    page = (ROOT / "docs/configuration.md").read_text()
    assert page == result.stdout, (
        "python -m ctjax.config.describe > docs/configuration.md"
    )
    assert "| `run.minibatch_size` | `2` | int, at least 1 |" in page
    assert "`concat` | concat, sum, none |" in page
    assert "| `run.iterations` | not set | int, at least 1 |" in page


def random_value(field, generator):
    """Mostly of the right type, often not."""
    texts = ["", "none", "batch", "concat", "train", "adam", "42", "nan", "\x00", "é"]
    return generator.choice(
        [
            field,
            field,
            generator.choice(texts),
            generator.randrange(-3, 20),
            generator.uniform(-2, 2),
            float("nan"),
            float("inf"),
            generator.choice([True, False, None]),
            [],
            {},
            {"a": 1},
        ]
    )


def test_a_thousand_random_configurations_resolve_or_name_the_field():
    generator = random.Random(5)
    outcomes = {"resolved": 0, "refused": 0}
    for _ in range(1000):
        values = fields.to_dict(fields.Config())
        for _ in range(generator.randrange(1, 5)):
            section = values
            while True:
                name = generator.choice(list(section))
                below = section[name]
                if not isinstance(below, dict) or not below or generator.random() < 0.1:
                    break
                section = section[name]
            if generator.random() < 0.1:
                section[name + generator.choice("xyz_")] = 1
            else:
                section[name] = random_value(section[name], generator)
        try:
            resolve.resolve(values)
            outcomes["resolved"] += 1
        except errors.ConfigError as error:
            assert "\n" not in str(error)
            assert re.match(r"[a-z0-9_.]+[=: ]", str(error)), str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50, outcomes
