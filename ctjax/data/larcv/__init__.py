"""Reads and writes the larcv3 file format, and does nothing else.

Reading:
file         voxels of one event and product, checked
truth        the true neutrino of each event
true_vertices  the neutrino's kind and vertex, which networks learn from
index        where the voxels of each event lie
plane_slots  which image of an event is which of the planes asked for
read_options which products, planes and labels are read, and as what
row_ranges   which rows of a table events have, checked
tables       one-dimensional datasets of named members, checked
chunks       rows of a dataset, past HDF5's lock where possible
chunk_order  signs that chunks have changed places
fingerprint  what tells files of one name apart

Listing, also of files that could not be read:
listing        products and events
listed_images  planes, values and labels of a product
listed_rows    which images there are, and where their voxels lie

Writing:
writer       a new file, event by event
repack       a file again, with one chunk per event
disk_file    a file on a disk that may be full

Both:
records      the record types, and tables that grow
products     the names of groups
filters      gzip and shuffle
errors       the one error of a file that cannot be read
"""
