"""Simulates liquid-argon events: physics in three dimensions, then three images.

Physics:
parameters        every number with its source; the generator version
detectors         the numbers of other detectors than SBND
segments          straight deposits and particles, as batches
energy_loss       energy loss and range in liquid argon
tracks            muons, pions, protons
showers           electrons and photons
cosmics           cosmic rays at the surface
interactions      one neutrino interaction

Detector:
geometry          positions to columns and rows, for any image shape
drift             deposits to charges at the wires
noise             pixels of noise
readout           charges at the wires to stored pixels and labels
native            the inner loops of physics and detector in C, with the bits of numpy

Files:
events            seed and number to a whole event
truth             an event as larcv3 records
production        many events into one file, on several processes
progress          how far a production has come
benchmark_sets    named files with sizes and seeds
content_checksum  a checksum of what a file says
"""
