"""A folder for a run that was given none."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
import weakref


class Scratch:
    """A temporary folder that is removed with this object, or at the end of the process.

    Attributes:
        path: of the folder.
    """

    def __init__(self) -> None:
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="ncap_jax-"))
        # Not tempfile.TemporaryDirectory, which warns of it when nobody closes it.
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
