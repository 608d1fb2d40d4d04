"""What a network sees of a minibatch, dense or sparse."""

import jax
import numpy as np

from ctjax.learning import minibatch, sharding
from ctjax.learning.minibatch import DenseMinibatch, SparseMinibatch


def test_img_transform_feeds_the_logarithm():
    image = np.array([[[[0.0, np.e - 1]]]], np.float32)
    label = np.zeros(image.shape, np.uint8)
    batch = DenseMinibatch(image, label, np.ones(1, np.float32))
    raw, charge, _ = minibatch.make_input((1, 2), False)(batch)
    logged, same_charge, _ = minibatch.make_input((1, 2), True)(batch)
    np.testing.assert_array_equal(raw, image)
    np.testing.assert_array_equal(charge, same_charge)
    np.testing.assert_allclose(logged, [[[[0.0, 1.0]]]], rtol=1e-6)


def test_negative_charges_are_mirrored():
    charges = np.array([0, 5, 2772, 0.5, -0.5, -1, -2, -999, -1e6], np.float32)
    found = np.asarray(minibatch.log_of_charge(charges))
    # Of the others every bit is that of the original's formula.
    np.testing.assert_array_equal(found[:4], jax.numpy.log(charges[:4] + 1))
    np.testing.assert_allclose(found[4:], -np.log(1 - charges[4:]), rtol=1e-6)
    batch = DenseMinibatch(charges.reshape(1, 1, 3, 3), None, None)
    batch = batch._replace(label=batch.image, mask=np.ones(1, np.float32))
    image, charge, _ = minibatch.make_input((3, 3), True)(batch)
    np.testing.assert_array_equal(np.ravel(image), found)
    np.testing.assert_array_equal(np.ravel(charge), charges)


def test_both_forms_give_the_same_images():
    # Two rows of three columns; ids count down the columns, 6 and above are nothing.
    ids = np.array([[[1, 4, 6, 7]]], np.int32)
    values = np.array([[[5.0, 7.0, 0.0, 0.0]]], np.float32)
    labels = np.array([[[2, 1, 0, 0]]], np.uint8)
    mask = np.ones(1, np.float32)
    image = np.array([[[[0, 0, 7], [5, 0, 0]]]], np.float32)
    label = np.array([[[[0, 0, 1], [2, 0, 0]]]], np.uint8)
    forms = (
        SparseMinibatch(ids, values, labels, mask),
        DenseMinibatch(image, label, mask),
    )
    for form in forms:
        charge, classes = jax.jit(minibatch.dense, static_argnums=1)(form, (2, 3))
        np.testing.assert_array_equal(charge, image)
        np.testing.assert_array_equal(classes, label)
        assert classes.dtype == np.uint8


def test_a_minibatch_keeps_its_form_on_the_devices():
    mesh = sharding.make_mesh()
    arrays = np.zeros((4, 3, 2, 2), np.float32), np.zeros((4, 3, 2, 2), np.uint8)
    given = DenseMinibatch(*arrays, np.array([1, 1, 1, 0], np.float32))
    placed = sharding.distribute(given, mesh)
    assert isinstance(placed, DenseMinibatch)
    assert len(placed.mask.addressable_shards) == 4
    jax.tree.map(np.testing.assert_array_equal, placed, given)
