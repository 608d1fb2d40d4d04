"""Events on the host: numpy and h5py only, so that the IO test needs no device.

defects      the one error of a file that cannot be read
larcv_file   sparse voxels of one event of a larcv3 file; with larcv_index (its index
             tables), tables and chunks (their bytes), chunk_order (signs of damage)
native       inner loops of these in C, where the installation could build them
larcv_writer larcv3 files, written; with larcv_records (their record types)
pooling      downsampling of sparse voxels
images       sparse voxels to dense images
sparse       sparse voxels in the form that a device makes dense
synthetic    random events of the same form, without a file
sources      files or synthetic events behind one interface
order        order of events in training, inference and the IO test
pipeline     minibatches, read ahead on threads
"""
