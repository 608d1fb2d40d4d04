"""What `import ctjax` gives to a notebook.

events      opens files as a sequence of events
event       one of them
loading     loads a network with its weights
tagger      the network, which predicts
evaluated   what a network says of a minibatch
head_results  what its heads say of an event
exporting   writes a network as a program of its own
evaluation  compares predicted with true classes
pictures    draws events
saving      writes predictions into a file
training    trains

Each public function is an attribute of `ctjax`, which imports it when it is asked for.
Nothing here logs to a terminal, and errors of the user are `UserError`s of one line.
"""
