"""Holds the parameters of each detector that can be simulated, by its name.

Those of SBND are the defaults of `SimulationParameters`. The others are sketches with
published dimensions; gains, pulses and noise are SBND's fits.
"""

import dataclasses

from ctjax.simulation.parameters import SimulationParameters

_SBND = SimulationParameters()

_MICROBOONE = dataclasses.replace(
    _SBND,
    # The images of MicroBooNE's networks (github.com/LArbys/ublarcvapp): ticks 2400 to
    # 8448, six a row, with the trigger at tick 3200; a column a wire. Four halvings.
    image_shape=(1008, 3456),
    shape_divisor=16,
    rows_per_volume=1008,
    ticks_per_row=6,
    before_trigger_us=400.0,
    # 2.56 m along the drift, 2.33 m high, 10.37 m long, read out at one side; 2400,
    # 2400 and 3456 wires at +60, -60 and 0 degrees, 3 mm apart (arXiv:1612.05824).
    half_width_cm=128.0,
    half_height_cm=116.5,
    depth_cm=1036.8,
    num_volumes=1,
    plane_volumes=((0,),) * 3,
    plane_columns=(2400, 2400, 3456),
    wires=(2400, 2400, 3456),
    origin_columns=(0, 0, 0),
    # Of MicroBooNE's own simulation: 273 V/cm and 1.098 mm/us (LArSoft's
    # microboone_detproperties), 6.4 and 9.8 cm2/s (Wire-Cell's params.jsonnet, in
    # github.com/uboone/uboonedata).
    field_kv_cm=0.273,
    drift_cm_per_us=0.1098,
    longitudinal_cm2_us=6.4e-6,
    transverse_cm2_us=9.8e-6,
    # As many showers per area of the surrounding sphere and time as in SBND.
    cosmic_shower_mean=6.6,
    # As many pixels of noise as in SBND's quiet halves: 7.6e-4 and 2.3e-4 of all.
    noise_pixels=((1830.0,), (1830.0,), (815.0,)),
)

_TWO_TPCS = dataclasses.replace(
    _SBND,
    # SBND with its two TPCs as images of their own, as it is read out: the wires above
    # but two of each plane, a multiple of 32. Its readout covers 0.20 ms before and
    # after the drift (sbndcode's detectorproperties_sbnd.fcl); 0.19 ms are a number of
    # rows that halves.
    image_shape=(832, 1984),
    rows_per_volume=832,
    before_trigger_us=192.0,
    plane_volumes=((0,),) * 3 + ((1,),) * 3,
    # The layers of one TPC are the mirror images of the other's: the first one has
    # wires at +60 degrees in one and at -60 degrees in the other.
    wire_angles_deg=(60.0, -60.0, 0.0, -60.0, 60.0, 0.0),
    plane_columns=(1984, 1984, 1664) * 2,
    wires=(1984, 1984, 1664) * 2,
    origin_columns=(0,) * 6,
    pulse_ticks=_SBND.pulse_ticks * 2,
    gain=(122.0, 126.0, 130.0, 126.0, 122.0, 130.0),
    # Of each layer in dataset version 1, over 832 instead of 640 rows.
    noise_pixels=(
        *((1250.0,), (14800.0,), (325.0,)),
        *((1145.0,), (14400.0,), (325.0,)),
    ),
)

DETECTORS = {"sbnd": _SBND, "microboone": _MICROBOONE, "two_tpcs": _TWO_TPCS}
"""By name: constants at full size."""
