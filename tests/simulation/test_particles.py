"""Particles of the simulation: ranges, losses, scattering, showers, spectra."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctjax.base.constants import COSMIC, NEUTRINO
from ctjax.simulation import (
    cosmics,
    interactions,
    showers,
    tracks,
)
from ctjax.simulation.energy_loss import (
    ELECTRON_MEV,
    MUON_MEV,
    PROTON_MEV,
    stopping_table,
)
from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.segments import Particles, isotropic, turn

FULL = SimulationParameters()


# Groom, Mokhov, Striganov, ADNDT 78 (2001), muons in liquid argon: MeV, g/cm2. Above 1
# GeV their ranges contain radiative losses, which the table here leaves out.
GROOM_RANGE = {20: 3.321, 40: 10.58, 100: 42.50, 200: 106.3, 400: 238.5, 1000: 616.3}


@pytest.mark.parametrize("energy", GROOM_RANGE)
def test_muon_range_agrees_with_groom(energy):
    table = stopping_table(MUON_MEV, FULL.density_g_cm3)
    wanted = GROOM_RANGE[energy] / FULL.density_g_cm3
    assert table.to_range(np.array([energy]))[0] == pytest.approx(wanted, rel=0.02)


def test_minimum_ionisation_is_that_of_the_pdg():
    table = stopping_table(MUON_MEV, FULL.density_g_cm3)
    assert table.loss.min() / FULL.density_g_cm3 == pytest.approx(1.508, rel=0.01)


@pytest.mark.parametrize("mass", [ELECTRON_MEV, MUON_MEV, PROTON_MEV])
def test_range_and_energy_are_inverse(mass):
    table = stopping_table(mass, FULL.density_g_cm3)
    energy = np.geomspace(0.05, 1e4, 50)
    np.testing.assert_allclose(table.to_energy(table.to_range(energy)), energy, 1e-2)


def test_a_stopping_proton_deposits_its_energy_with_a_bragg_peak():
    at = Particles.make(
        np.array([[50.0], [0.0], [250.0]]), np.array([[0.0], [0.0], [1.0]]),
        np.array([100.0]), np.array([0.0]), COSMIC,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    deposits, deltas, rest = tracks.follow(FULL, rng, at, PROTON_MEV)
    assert len(rest) == 1 and len(deltas) == 0
    # Straggling aside, all of it: a proton of 100 MeV knocks no electron over the cut.
    assert deposits.energy.sum() == pytest.approx(100, rel=0.03)
    long = deposits.energy > 1
    assert deposits.density[long][-1] > 3 * deposits.density[0]


def test_a_muon_crosses_the_detector_with_the_mean_loss():
    number = 60
    at = Particles.make(
        np.tile([[50.0], [199.0], [250.0]], number),
        np.tile([[0.0], [-1.0], [0.0]], number),
        np.full(number, 4000.0), np.zeros(number), COSMIC,
    )  # fmt: skip
    deposits, deltas, rest = tracks.follow(FULL, np.random.default_rng(1), at, MUON_MEV)
    assert len(rest) == 0
    per_cm = (deposits.energy.sum() + deltas.energy.sum()) / number / 404
    table = stopping_table(MUON_MEV, FULL.density_g_cm3)
    mean = np.interp(4000 - 450, table.energy, table.loss)
    # Rare delta rays of hundreds of MeV make the mean of 60 muons uncertain.
    assert per_cm == pytest.approx(mean, rel=0.1)


def test_multiple_scattering_follows_highland():
    number = 400
    at = Particles.make(
        np.tile([[0.0], [150.0], [250.0]], number),
        np.tile([[0.0], [-1.0], [0.0]], number),
        np.full(number, 1000.0), np.zeros(number), COSMIC,
    )  # fmt: skip
    deposits, _, _ = tracks.follow(FULL, np.random.default_rng(2), at, MUON_MEV)
    depth = 150 - deposits.end[1]
    near = (np.abs(depth - 100) < 0.6) & (deposits.density > 0)
    long = np.abs(deposits.end[1] - deposits.start[1]) > 0.1
    spread = deposits.end[0][near & long].std()
    # Displacement x theta0 / sqrt 3 at 100 cm; momentum falls from 1.10 to 0.99 GeV.
    theta = 13.6 / 1040 * np.sqrt(100 / 14) * (1 + 0.038 * np.log(100 / 14))
    assert spread == pytest.approx(100 * theta / np.sqrt(3), rel=0.2)


def particles_of(energy, number=1):
    return Particles.make(
        np.tile([[100.0], [0.0], [200.0]], number),
        np.tile([[0.0], [0.0], [1.0]], number),
        np.full(number, energy), np.zeros(number), NEUTRINO,
    )  # fmt: skip


def nobody():
    return particles_of(1.0, 0)


@pytest.mark.parametrize("kind", ["electron", "photon"])
def test_a_contained_shower_deposits_its_energy(kind):
    number = 20
    shower = particles_of(200.0, number)
    made = (shower, nobody()) if kind == "electron" else (nobody(), shower)
    deposits = showers.develop(FULL, np.random.default_rng(3), *made)
    total = deposits.energy.sum() / number
    # Leakage and photons below the cut lose some; nothing may be gained.
    assert 0.8 * 200 < total <= 200.0
    assert (deposits.energy >= 0).all() and (deposits.origin == NEUTRINO).all()
    depth = deposits.end[2] - 200
    mean = (depth * deposits.energy).sum() / deposits.energy.sum()
    # The maximum lies near ln(200 / 32) radiation lengths, the mean some cm later.
    assert 15 < mean < 60


def test_nothing_in_no_deposit_out():
    deposits = showers.develop(FULL, np.random.default_rng(0), nobody(), nobody())
    assert deposits.energy.size == 0


def test_michel_electrons_have_the_spectrum_of_muon_decay():
    rest = particles_of(0.0, 20000)
    decays = cosmics.michel_electrons(FULL, np.random.default_rng(4), rest)
    assert len(decays) / len(rest) == pytest.approx(FULL.michel_fraction, abs=0.02)
    # Mean of 2 x^2 (3 - 2 x) is 0.7 of the end point 52.83 MeV.
    assert decays.energy.mean() + 0.511 == pytest.approx(0.7 * 52.83, rel=0.01)
    assert decays.energy.max() <= 52.83
    assert decays.time.mean() == pytest.approx(2.197, rel=0.05)


def test_cosmic_lines_go_down_with_a_cos2_zenith_angle():
    position, direction = cosmics.downward(FULL, np.random.default_rng(5), 40000)
    np.testing.assert_allclose((direction**2).sum(0), 1, atol=1e-12)
    cosine = -direction[1]
    assert cosine.min() >= 0 and (cosine**3).mean() == pytest.approx(0.5, abs=0.01)
    centre = position - np.array([[0], [0], [FULL.depth_cm / 2]])
    np.testing.assert_allclose((centre * direction).sum(0), 0, atol=1e-9)
    radius = np.sqrt((centre**2).sum(0))
    assert radius.max() <= cosmics.sphere_cm(FULL)


def test_neutral_pions_decay_into_their_energy_and_momentum():
    at = particles_of(300.0)
    codes, made = interactions.decay_neutral_pions(
        np.random.default_rng(6), np.array([111]), at
    )
    assert codes.tolist() == [22, 22]
    whole = 300 + interactions.NEUTRAL_PION_MEV
    assert made.energy.sum() == pytest.approx(whole)
    momentum = (made.energy * made.direction).sum(1)
    along = np.sqrt(whole**2 - interactions.NEUTRAL_PION_MEV**2)
    np.testing.assert_allclose(momentum, [0, 0, along], atol=1e-9)


def test_final_states_stay_below_the_neutrino_energy():
    rng = np.random.default_rng(7)
    made = [interactions.make_interaction(FULL, rng) for _ in range(600)]
    missing = sum(m is None for m in made)
    assert missing / 600 == pytest.approx(FULL.no_neutrino_fraction, abs=0.05)
    for interaction in filter(None, made):
        total = interaction.particles.energy.sum()
        assert 0 < total <= interaction.energy
        leptons = np.isin(np.abs(interaction.codes), (11, 13)).sum()
        assert leptons == 1 - interaction.current_type
        assert (np.abs(interaction.vertex[:2]) < 200).all()
        norm = (interaction.particles.direction**2).sum(0)
        np.testing.assert_allclose(norm, 1, atol=1e-9)


@given(
    st.floats(-1, 1), st.floats(0, 6.28), st.floats(-1, 1), st.integers(0, 2**32 - 1)
)
@settings(max_examples=50, deadline=None)
def test_turning_keeps_length_and_angle(cosine, azimuth, _, seed):
    direction = isotropic(np.random.default_rng(seed), 3)
    turned = turn(direction, np.full(3, cosine), np.full(3, azimuth))
    np.testing.assert_allclose((turned**2).sum(0), 1, atol=1e-9)
    np.testing.assert_allclose((turned * direction).sum(0), cosine, atol=1e-6)
