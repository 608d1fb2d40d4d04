"""Holds events on the host: numpy and h5py only, so that the IO test needs no device.

voxels     the form in which events travel: sparse charges or classes of all planes
larcv      the file format and nothing else
synthetic  random events of the same form, without a file
sources    files or synthetic events behind one interface, pooled
pooling    downsampling of sparse voxels
images     sparse voxels written into dense images
sparse     sparse voxels in the form of which a device makes dense images
site_lists        sparse voxels as sites, at all resolutions
joined_sites      the sites of several events as one list, with their neighbours
native     the inner loops of these in C, where the installation could build them
head_labels  the labels of a network's heads
order      which events make up which minibatch
minibatch  the arrays of a minibatch, and the forms that they come in
forms      what is read for dense images or stored pixels, and what becomes of it
site_minibatches  the same for sites
pipeline   minibatches of any form, read ahead on threads
"""
