"""Where things are kept between runs: converted weights and compiled programs.

The folder is `NCAP_CACHE`, or the user's cache folder (`~/.cache/ncap_jax` on Linux). It may be
deleted at any time; what was in it is downloaded or made again when it is needed.
"""

from __future__ import annotations

import atexit
import gc
import os
import pathlib
import re
import shutil
import tempfile
import warnings
from typing import Any

import platformdirs


def folder() -> pathlib.Path:
    """The cache folder; it need not exist yet."""
    wanted = os.environ.get("NCAP_CACHE")
    if not wanted and not os.environ.get("XDG_CACHE_HOME"):
        ensure_home()
    return expanded(wanted or platformdirs.user_cache_dir("ncap_jax"))


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path in which `~` stands for the user's home folder."""
    if os.fspath(path).startswith("~"):
        ensure_home()
    return pathlib.Path(os.path.expanduser(path))


def ensure_home() -> None:
    """Give a user who has no home folder, as in some containers, one for the time of the process.

    Other packages keep their files there too. Workers that this process starts share it.
    """
    try:
        pathlib.Path.home()
    except RuntimeError:  # HOME is not set, and the system does not know the user
        # No fixed name: whoever made it first could put programs into it.
        home = tempfile.mkdtemp(prefix="ncap_jax-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home
        warnings.warn(
            "this user has no home folder: weights and compiled programs are kept in a temporary "
            "one and removed at the end. Set HOME or NCAP_CACHE to a folder to keep them",
            stacklevel=2,
        )


def offline() -> bool:
    """Whether `NCAP_OFFLINE` forbids all downloads (any value but empty, 0, false, no)."""
    return os.environ.get("NCAP_OFFLINE", "").lower() not in ("", "0", "false", "no")


def keep_compiled_programs() -> pathlib.Path | None:
    """Keep compiled programs in `<cache>/xla`, so that a second run of the same models starts fast.

    A folder that the user has chosen (`JAX_COMPILATION_CACHE_DIR`, or `jax.config`) stays in use,
    and `JAX_ENABLE_COMPILATION_CACHE=false` stays in force.

    Returns:
        The folder in use, or None if the user has switched the cache off.
    """
    import jax

    options: Any = jax.config  # its options are defined at run time
    if not options.jax_enable_compilation_cache:
        return None
    if options.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder() / "xla"))
        # JAX keeps only what took a second to compile. Most of a run's programs take less, and
        # reading them back takes less still. A choice of the user's own stays.
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return pathlib.Path(options.jax_compilation_cache_dir)


def forget_compiled_programs() -> None:
    """Free the memory of all compiled programs of this process.

    JAX keeps them until it is told otherwise, which adds up over a pool of large models. A program
    that is called again is read from the folder of `keep_compiled_programs`, or compiled again.
    """
    import jax

    jax.clear_caches()
    gc.collect()


def describe_programs(kept: pathlib.Path | None) -> str:
    """A sentence on where a run's compiled programs come from.

    Args:
        kept: the folder, as `keep_compiled_programs` returns it.
    """
    if kept is None:
        return "Compiled programs: the cache is switched off, so all are compiled in this run."
    taken = f"Compiled programs: taken from {kept} where it has them."
    count = count_programs(kept)
    if count is None:
        return taken
    if not count:
        return f"Compiled programs: {kept} has none yet, so all are compiled in this run, and kept."
    return f"{taken[:-1]} ({count:,} in all)."


def count_programs(kept: pathlib.Path | None) -> int | None:
    """How many compiled programs a folder has; None: not known.

    Args:
        kept: the folder, as `keep_compiled_programs` returns it.
    """
    if kept is None:
        return 0
    if re.match(r"\w{2,}:/", str(kept)):  # a bucket, which is not listed for this
        return None
    try:
        return sum(name.endswith("-cache") for name in os.listdir(kept))
    except FileNotFoundError:
        return 0
    except OSError:
        return None
