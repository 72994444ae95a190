"""The tests that need an accelerator (`pytest -m gpu`), with each one's outcome as JSON.

python -m benchmarks.gpu_tests --output=FILE
python -m benchmarks.gpu_tests --on_cpu --only=depthwise --output=FILE
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from collections import Counter
from typing import Any

from absl import app, flags

from benchmarks import accelerator_beside, timing

FLAGS = flags.FLAGS
FILE = "tests/gpu_test.py"


def define_flags() -> None:
    """Called by the script alone."""
    flags.DEFINE_string("only", "", "Run those whose names fit this expression (pytest -k).")
    flags.DEFINE_bool("on_cpu", False, "Run them on the CPU, which tests the tests.")
    flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")


def outcomes(report: pathlib.Path) -> dict[str, Any]:
    """What a JUnit report of pytest's says.

    Returns:
        `tests`: name -> outcome (passed, failed, skipped), seconds and message; `counts`.
    """
    tests: dict[str, Any] = {}
    # Our own file, written a moment ago.
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        found = [child for child in case if child.tag in ("failure", "error", "skipped")]
        outcome = {"skipped": "skipped"}.get(found[0].tag, "failed") if found else "passed"
        tests[case.attrib["name"]] = {
            "outcome": outcome,
            "seconds": float(case.attrib["time"]),
            "message": found[0].attrib.get("message", "")[:2000] if found else "",
        }
    return {"tests": tests, "counts": dict(Counter(row["outcome"] for row in tests.values()))}


def main(argv: list[str]) -> None:
    """Run pytest; its exit code is ours."""
    del argv
    environ = dict(os.environ)
    if FLAGS.on_cpu:
        environ["NCAP_GPU_TESTS_ON_CPU"] = "1"
    else:
        environ.setdefault("XLA_FLAGS", "")  # compiled as users do, not as cheaply as the suite
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", FILE, f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider", "--color=no"]
        command += ["-k", FLAGS.only] if FLAGS.only else []
        command = accelerator_beside.following(command)
        code = subprocess.run(command, env=environ, check=False).returncode
        if report.exists():
            timing.report(outcomes(report), FLAGS.output)
    sys.exit(code)


if __name__ == "__main__":
    define_flags()
    app.run(main)
