"""Tabulates energy loss and range of charged particles in liquid argon."""

import functools

import numpy as np

ELECTRON_MEV, MUON_MEV, PION_MEV, PROTON_MEV = 0.511, 105.658, 139.570, 938.272
"""Masses (Particle Data Group 2024)."""

# Liquid argon: 0.307075 MeV cm2/mol, Z/A, mean excitation energy; Sternheimer's density
# effect (PDG, Atomic and Nuclear Properties 2024, and Groom et al., ADNDT 78).
BETHE_MEV_CM2_MOL = 0.307075
Z_OVER_A = 18 / 39.948
EXCITATION_MEV = 188.0e-6
STERNHEIMER = {"a": 0.19559, "k": 3.0, "x0": 0.2, "x1": 3.0, "c": 5.2146}


class StoppingTable:
    """Tabulates mean ionisation loss and range of one kind of particle.

    Attributes:
      mass: MeV.
      energy: [M] float64, kinetic energy in MeV, ascending.
      loss: [M] float64, MeV/cm.
      range_cm: [M] float64, continuous-slowing-down range.
    """

    def __init__(self, mass: float, density_g_cm3: float):
        """Tabulates 10 keV to 1 TeV (logarithmic, 600 points)."""
        self.mass = mass
        self.energy = np.geomspace(0.01, 1e6, 600)
        loss = _bethe_electron if mass == ELECTRON_MEV else _bethe_heavy
        # Below the validity of Bethe's formula the loss is kept: the range that is
        # missed or gained is far below a pixel.
        table = loss(self.energy, mass) * density_g_cm3
        self.loss = np.maximum(table, 1.0)
        peak = int(np.argmax(self.loss))
        self.loss[:peak] = self.loss[peak]
        steps = np.diff(self.energy) * 0.5 * (1 / self.loss[1:] + 1 / self.loss[:-1])
        self.range_cm = self.energy[0] / self.loss[0] + np.concatenate(
            [[0.0], np.cumsum(steps)]
        )

    def to_range(self, energy: np.ndarray) -> np.ndarray:
        """Returns the range in cm of kinetic energies in MeV."""
        return np.interp(energy, self.energy, self.range_cm)

    def to_energy(self, range_cm: np.ndarray) -> np.ndarray:
        """Returns the kinetic energy in MeV that is left at a residual range in cm."""
        # Below the table, energy falls linearly to 0 at range 0.
        inside = np.interp(range_cm, self.range_cm, self.energy)
        return inside * np.clip(range_cm / self.range_cm[0], 0.0, 1.0)


@functools.cache
def stopping_table(mass: float, density_g_cm3: float) -> StoppingTable:
    """Returns the table of a particle, made once per process."""
    return StoppingTable(mass, density_g_cm3)


def _density_effect(beta_gamma: np.ndarray) -> np.ndarray:
    """Returns Sternheimer's delta."""
    x = np.log10(beta_gamma)
    s = STERNHEIMER
    delta = 2 * np.log(10.0) * x - s["c"]
    delta = delta + s["a"] * np.maximum(s["x1"] - x, 0.0) ** s["k"]
    return np.where(x < s["x0"], 0.0, delta)


def _bethe_heavy(energy: np.ndarray, mass: float) -> np.ndarray:
    """Returns the mean loss, MeV cm2/g (PDG 2024, equation 34.5)."""
    gamma = 1.0 + energy / mass
    beta2 = 1.0 - gamma**-2
    bg2 = beta2 * gamma**2
    ratio = ELECTRON_MEV / mass
    largest = 2 * ELECTRON_MEV * bg2 / (1 + 2 * gamma * ratio + ratio**2)
    logarithm = 0.5 * np.log(2 * ELECTRON_MEV * bg2 * largest / EXCITATION_MEV**2)
    bracket = logarithm - beta2 - 0.5 * _density_effect(np.sqrt(bg2))
    return BETHE_MEV_CM2_MOL * Z_OVER_A / beta2 * bracket


def _bethe_electron(energy: np.ndarray, mass: float) -> np.ndarray:
    """Returns electrons' mean collision loss, MeV cm2/g (Berger, Seltzer, ICRU 37)."""
    tau = energy / mass
    beta2 = 1.0 - (1.0 + tau) ** -2
    f = 1 - beta2 + (tau**2 / 8 - (2 * tau + 1) * np.log(2.0)) / (tau + 1) ** 2
    logarithm = np.log(tau**2 * (tau + 2) / (2 * (EXCITATION_MEV / mass) ** 2))
    beta_gamma = np.sqrt(tau * (tau + 2))
    bracket = logarithm + f - _density_effect(beta_gamma)
    return 0.5 * BETHE_MEV_CM2_MOL * Z_OVER_A / beta2 * bracket
