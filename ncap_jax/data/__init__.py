"""Data sets: where images come from, what is checked, how they are split and batched.

    load_dataset("digits")                     the embedded set, offline
    load_dataset("cifar10", data_dir=...)      a set that TFDS prepared, without TensorFlow
    load_dataset("photos/")                    an image folder
    load_dataset("photos.csv")                 a list of path,label
    load_dataset(Dataset(images, labels))      arrays

Selection sees the training and validation parts only; `load_test_split` is for studies.
docs/data.md is the user's guide.
"""

from ncap_jax.data.describe import contact_sheet, statistics
from ncap_jax.data.load import load_dataset, load_test_split

__all__ = ["contact_sheet", "load_dataset", "load_test_split", "statistics"]
