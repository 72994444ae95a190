"""Data sets: where images come from, what is checked, how they are split and batched.

    load_dataset("digits")                     the embedded set, offline
    load_dataset("cifar10", data_dir=...)      a set that TFDS prepared, without TensorFlow
    load_dataset("photos/")                    an image folder
    load_dataset("photos.csv")                 a list of path,label
    load_dataset(Dataset(images, labels))      arrays

Selection sees the training and validation parts only. `load_test_part` gives the part on which the
finished winner is tested, `load_test_split` the same as arrays.
docs/data.md is the user's guide.

The functions are imported when they are first used (PEP 562): what fine-tuning needs of this
package (`feed`, `batching`) comes without Pillow and the decoders.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncap_jax.data.describe import contact_sheet, count_leaks, statistics, thumbnail
    from ncap_jax.data.load import load_dataset, load_test_part, load_test_split
    from ncap_jax.data.seen import seen_by

__all__ = [
    "contact_sheet",
    "count_leaks",
    "load_dataset",
    "load_test_part",
    "load_test_split",
    "seen_by",
    "statistics",
    "thumbnail",
]

_HOMES = {
    "contact_sheet": "ncap_jax.data.describe",
    "count_leaks": "ncap_jax.data.describe",
    "load_dataset": "ncap_jax.data.load",
    "load_test_part": "ncap_jax.data.load",
    "load_test_split": "ncap_jax.data.load",
    "seen_by": "ncap_jax.data.seen",
    "statistics": "ncap_jax.data.describe",
    "thumbnail": "ncap_jax.data.describe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
