"""Recipes of other package managers ask for what requirements.txt asks for."""

import re

import pytest

from tests.support import ROOT

PACKAGING = ROOT / "launch" / "packaging"
OTHER_NAMES = {"tensorboardX": "tensorboardx"}


def required():
    """Name and lowest version of each package."""
    lines = (ROOT / "requirements.txt").read_text().split()
    pairs = (line.split(">=") for line in lines)
    return {OTHER_NAMES.get(name, name): version for name, version in pairs}


@pytest.mark.parametrize(
    "recipe, pattern",
    [
        ("conda/recipe.yaml", r"    - (\S+) >=([\d.]+)"),
        ("spack/package.py", r'depends_on\("py-([\w-]+)@([\d.]+):"'),
    ],
)
def test_a_recipe_asks_for_the_requirements(recipe, pattern):
    found = dict(re.findall(pattern, (PACKAGING / recipe).read_text()))
    for name in ("python", "setuptools", "setuptools-scm"):
        found.pop(name, None)
    expected = required()
    if recipe.startswith("spack"):  # which names packages with hyphens
        expected = {name.replace("_", "-"): v for name, v in expected.items()}
    whole = {name: version.removesuffix(".0") for name, version in expected.items()}
    assert {
        name: version.removesuffix(".0") for name, version in found.items()
    } == whole


@pytest.mark.parametrize("file", ["Dockerfile", "ctjax.def"])
def test_an_image_has_extras_that_exist(file):
    text = (PACKAGING / file).read_text()
    project = (ROOT / "pyproject.toml").read_text()
    extras = re.findall(r"EXTRAS=([\w,]+)", text)
    assert len(extras) == 2
    for extra in ",".join(extras).split(","):
        assert re.search(rf"^{extra} = \[", project, re.M), extra
