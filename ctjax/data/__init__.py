"""Events on the host: numpy and h5py only, so that the IO test needs no device.

larcv_file  the larcv3 HDF5 layout, read: sparse voxels of one event
images      sparse voxels to dense images; downsampling
synthetic   random events of the same form, without a file
pipeline    order of events, minibatches, read-ahead
"""
