"""Data sets: where images come from, what is checked, how they are split and batched.

    load_dataset("digits")                     the embedded set, offline
    load_dataset("cifar10", data_dir=...)      a set that TFDS prepared, without TensorFlow
    load_dataset(Dataset(images, labels))      arrays

Selection sees the training and validation parts only; `load_test_split` is for studies.
"""

from ncap_jax.data.load import load_dataset, load_test_split

__all__ = ["load_dataset", "load_test_split"]
