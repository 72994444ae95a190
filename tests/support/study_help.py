"""Print what `--helpshort` of every study prints: `python -m tests.support.study_help NAME...`.

All studies are imported once; each then runs as the main program in a fork of its own, because
absl keeps one table of flags a process.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback


def printed_by(name: str) -> str:
    """What one study prints for `--helpshort`."""
    with tempfile.TemporaryFile("w+") as file:
        child = os.fork()
        if not child:
            os.dup2(file.fileno(), sys.stdout.fileno())
            sys.argv = [name, "--helpshort"]
            try:
                runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
            except BaseException as error:
                if not isinstance(error, SystemExit):
                    traceback.print_exc()
            finally:  # the fork must not go on with what is the parent's
                sys.stdout.flush()
                os._exit(0)
        os.waitpid(child, 0)
        file.seek(0)
        return file.read()


def main(names: list[str]) -> None:
    """Print a JSON object: study -> its output."""
    for name in names:
        importlib.import_module(f"experiments.{name}")
        # It is imported again, as the main program.
        del sys.modules[f"experiments.{name}"]
    print(json.dumps({name: printed_by(name) for name in names}))


if __name__ == "__main__":
    main(sys.argv[1:])
