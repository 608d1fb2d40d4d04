"""Holds every number of the simulation with its source, and nothing else.

Two kinds of numbers: those of the literature, and those fitted here to CosmicTagger's
public five-event file (`cosmic_tagging_light.h5`, "the light file" below), which are
marked `fit`. `docs/simulation.md` shows how well the fits do.
"""

import dataclasses

GENERATOR_VERSION = 1
"""Changes whenever any event of any seed changes; part of the random seed."""


@dataclasses.dataclass(frozen=True)
class SimulationParameters:
    """Holds the constants of detector, particles and readout, in cm and MeV.

    The defaults are those of SBND as CosmicTagger's files show it; detectors.py changes
    what is otherwise in others.

    Source:
      The comment above each field.
    """

    # Image of dataset version 1 (H rows, W columns), as in the light file; where planes
    # have different numbers of columns, that of the widest.
    image_shape: tuple[int, int] = (1280, 2048)
    # Five halvings of the default network.
    shape_divisor: int = 32

    # Active volume: 4 m x 4 m x 5 m with the cathode at x = 0 and a drift of 2 m on
    # either side (SBND in arXiv:1503.01520).
    half_width_cm: float = 200.0
    half_height_cm: float = 200.0
    depth_cm: float = 500.0
    # Drift volumes: two, x < 0 and x >= 0, that share the cathode at x = 0; or one with
    # the anode at the lower and the cathode at the upper end of x.
    num_volumes: int = 2
    # Volumes that each image shows, one after the other along the drift.
    plane_volumes: tuple[tuple[int, ...], ...] = ((0, 1),) * 3
    # Wires of each image's plane from the vertical, 3 mm apart (same). Vertices of
    # the light file fall on their pixels with column = 1024 + [z' / 2 -+ 0.866 y] / 0.3
    # in planes 0 and 1 (z' from the middle) and on 1024 + z' / 0.3 in plane 2.
    wire_angles_deg: tuple[float, ...] = (60.0, -60.0, 0.0)
    wire_pitch_cm: float = 0.3
    plane_columns: tuple[int, ...] = (2048, 2048, 2048)
    # Wires that ever hold charge in the light file: columns 31 to 2016, 191 to 1856.
    wires: tuple[int, ...] = (1986, 1986, 1666)
    # Column of each plane at which the coordinate across the wires is 0 in dataset
    # version 2 (CosmicTagger's ImageMeta).
    origin_columns: tuple[int, ...] = (32, 32, 192)
    # One row is four ticks of 0.5 us; 640 rows of 0.3121 cm cover the drift (the cm are
    # CosmicTagger's ImageMeta of dataset version 2, 439.466 / 1408).
    tick_us: float = 0.5
    ticks_per_row: int = 4
    drift_cm_per_us: float = 0.15606
    rows_per_volume: int = 640
    before_trigger_us: float = 0.0

    # Liquid argon (Particle Data Group, Atomic and Nuclear Properties 2024): density,
    # radiation length.
    density_g_cm3: float = 1.396
    radiation_length_cm: float = 14.0

    # Cosmic muons: I(E) ~ (E0 + E)^-n with vertical intensity I0 per m2 s sr (Shukla
    # and Sankrith, arXiv:1606.06907, sea level), cos^2 in the zenith angle.
    muon_intensity: float = 72.5
    muon_spectrum_mev: float = 4290.0
    muon_spectrum_power: float = 3.01
    # mu- captured on argon before decaying: mu- are 44 % of muons (PDG 2024, cosmic
    # rays, charge ratio 1.27), three quarters of them captured (Suzuki et al., PRC 35).
    michel_fraction: float = 0.67
    muon_lifetime_us: float = 2.197
    # Showers of cosmic photons and electrons that reach the volume per readout window,
    # E^-2 between the two energies. fit: see docs.
    cosmic_shower_mean: float = 1.5
    cosmic_shower_mev: tuple[float, float] = (20.0, 2000.0)

    # Share of events without a neutrino, and of charged-current muon, charged-current
    # electron and neutral-current events among the others: our choice, near the balance
    # of classes of CosmicTagger's event classification.
    no_neutrino_fraction: float = 0.1
    neutrino_kinds: tuple[float, float, float] = (0.4, 0.4, 0.2)
    # Energy of interacting neutrinos: gamma distribution (mean, shape). fit: the five
    # light events have 0.5 to 1.9 GeV, mean 1.26. Spill of the Booster beam 1.6 us
    # (MiniBooNE, arXiv:0806.1449).
    neutrino_mean_mev: float = 1800.0
    neutrino_energy_shape: float = 4.0
    neutrino_range_mev: tuple[float, float] = (250.0, 4000.0)
    spill_us: float = 1.6
    # Inelasticity y ~ Beta(a, b), mean 1/3: quasi-elastic and resonant mixture near 1
    # GeV (Formaggio and Zeller, arXiv:1305.7513); a sketch, no event generator.
    inelasticity: tuple[float, float] = (1.5, 3.0)
    # Pions per GeV of hadronic energy above threshold, share of that energy lost to
    # neutrons and the nucleus, mean number of further protons; our sketch.
    pions_per_gev: float = 1.6
    pion_threshold_mev: float = 280.0
    invisible_share: float = 0.2
    further_protons: float = 0.6
    # Interaction length of charged pions of 0.2 to 1 GeV (LArIAT, arXiv:2108.00040:
    # about 0.7 barn on argon, 2.1e22 atoms per cm3).
    pion_interaction_cm: float = 68.0

    # Straight pieces in which tracks scatter (smaller ones where they end), and the
    # spacing of the points in which charge drifts; numerical choices.
    track_step_cm: float = 1.2
    point_step_cm: float = 0.035
    # Delta rays above the first energy are sampled, above the second they travel.
    delta_cut_mev: float = 0.1
    delta_track_mev: float = 1.0
    # Bremsstrahlung photons below this energy are left out; photons below the second
    # one are absorbed where they are.
    bremsstrahlung_cut_mev: float = 0.4
    photon_cut_mev: float = 0.1

    # Modified box recombination at 0.5 kV/cm (ArgoNeuT, arXiv:1306.1712).
    recombination_alpha: float = 0.93
    recombination_beta: float = 0.212
    field_kv_cm: float = 0.5
    # Attachment: lifetime 10 ms, our choice, a loss of 12 % at most. Diffusion along
    # and across the drift, cm2/us: 6.2 and 16.3 cm2/s, LArSoft's long-time defaults
    # (newer measurements are smaller; the light file's tracks are as wide as these make
    # them).
    electron_lifetime_us: float = 10000.0
    longitudinal_cm2_us: float = 6.2e-6
    transverse_cm2_us: float = 16.3e-6
    # Electronics: Gaussian after deconvolution (ticks); a row stores the largest of its
    # ticks. fit: tracks along the wires' time axis give 108 counts per MeV in all, flat
    # ones 160 and more, and three rows with the ratios 0.35 : 1 : 0.35.
    pulse_ticks: tuple[float, ...] = (1.15, 1.15, 0.8)
    # fit: counts per MeV of surviving charge in each plane.
    gain: tuple[float, ...] = (122.0, 126.0, 130.0)
    # A pixel is stored above this many counts (every stored value of the light file)
    # and labelled above this true energy (smallest entry of its sbndsegmerged).
    threshold: float = 5.0
    label_threshold_mev: float = 0.04
    # White noise of a tick under a signal, counts. fit: slope of the quiet halves.
    noise_counts: float = 1.45
    # Stored noise pixels per plane and volume it shows. fit: the light file's counts.
    noise_pixels: tuple[tuple[float, ...], ...] = (
        (960.0, 11100.0),
        (11400.0, 880.0),
        (250.0, 250.0),
    )
    noise_spread: float = 0.06
    # Halves above this are of the noisy kind: runs of 1, 2, ... rows with the given
    # shares, several runs in a burst (geometric, mean), and distances within a burst
    # that fall exponentially (rows). fit: run lengths and autocorrelation.
    noisy_half: float = 5000.0
    run_shares: tuple[float, ...] = (
        0.746, 0.187, 0.038, 0.016, 0.0065, 0.003, 0.0017, 0.0008, 0.001,
    )  # fmt: skip
    runs_per_burst: float = 1.65
    burst_gap_rows: float = 7.0
    # Mean excess over the threshold: single pixels of quiet halves, then of runs of 1,
    # 2, ... rows in noisy ones. fit.
    quiet_excess: float = 0.42
    run_excess: tuple[float, ...] = (
        0.55, 0.85, 1.04, 1.05, 1.19, 1.2, 1.33, 1.41, 1.49,
    )  # fmt: skip
    # Charge is rounded to this fraction of a count, so that a last-bit difference of a
    # machine's exp or log is, almost always, not seen in a file.
    counts_grid: float = 1.0 / 64.0
