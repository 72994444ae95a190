"""A run's temporary folder lives as long as its owner."""

from __future__ import annotations

import gc
import warnings

from ncap_jax.run.scratch import Scratch


def test_the_folder_goes_with_its_owner_without_a_word():
    scratch = Scratch()
    path = scratch.path
    (path / "a").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del scratch
        gc.collect()
    assert not path.exists()


def test_each_has_a_folder_of_its_own():
    assert Scratch().path != Scratch().path
