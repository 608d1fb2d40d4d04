"""Simulated liquid-argon events: physics in three dimensions, then three images.

parameters  every number with its source; the generator version
geometry    positions to columns and rows, for any image shape
segments    straight deposits and particles, as batches
stopping    energy loss and range
tracks      muons, pions, protons; showers: electrons, photons
cosmics     cosmic rays; neutrino: one interaction
drift       deposits to charges at the wires; noise: pixels of noise
readout     charges at the wires to stored pixels and labels
native      the inner loops of these in C, with the bits of numpy
events      seed and number to a whole event
truth       an event as larcv3 records
production  many events into one file, on several processes
benchmark_sets  named files with sizes and seeds; checksum: of a file's contents
"""
