"""Pictures of a report for the documents, taken by headless Chromium: `make pictures`.

    python -m ncap_jax --finish=2 --test_fraction=0.5
    python docs/pictures.py runs/digits/report.html docs

writes report.png (as in the README), report-dark.png and report-phone.png (390 pixels wide): of a
run with a winner, from the answer to the last of its mistakes.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile

from PIL import Image

# name -> width and height in CSS pixels, device pixels per CSS pixel, dark
PICTURES = {
    "report": (1180, 2550, 1.0, False),
    "report-dark": (1180, 2550, 1.0, True),
    "report-phone": (390, 1790, 1.5, False),
}
# Chromium's window is never narrower than this; a frame in it is.
NARROWEST = 500
FRAME = '<body style="margin:0"><iframe src="{}" style="width:{}px;height:{}px;border:0"></iframe>'


def main(arguments: list[str]) -> int:
    """Take every picture of the report that is named first into the folder that is named second."""
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None or len(arguments) != 2 or not pathlib.Path(arguments[0]).is_file():
        print(f"{__doc__}\nNeeded: Chromium, a report, a folder.", file=sys.stderr)
        return 2
    report, folder = (pathlib.Path(argument).resolve() for argument in arguments)
    for name, (width, height, scale, dark) in PICTURES.items():
        path = folder / f"{name}.png"
        take(chromium, report, path, width, height, scale, dark)
        print(f"{path}: {path.stat().st_size // 1000} kB")
    return 0


def take(
    chromium: str,
    report: pathlib.Path,
    path: pathlib.Path,
    width: int,
    height: int,
    scale: float = 1.0,
    dark: bool = False,
) -> None:
    """One picture of the top of the page, as a PNG of 256 colours."""
    with tempfile.TemporaryDirectory() as temporary:
        frame = pathlib.Path(temporary) / "frame.html"
        frame.write_text(FRAME.format(report.as_uri(), width, height), encoding="utf-8")
        subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--hide-scrollbars",
                f"--user-data-dir={temporary}/profile",
                f"--force-device-scale-factor={scale}",
                f"--window-size={max(width, NARROWEST)},{height}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                "--virtual-time-budget=5000",
                f"--screenshot={path}",
                frame.as_uri(),
            ],
            check=True,
            capture_output=True,
        )
    with Image.open(path) as whole:
        page = whole.convert("RGB").crop((0, 0, round(width * scale), whole.height))
    # Maximum coverage keeps the few saturated colours of the curves and the pale ones of the
    # panels, where others would give all to the greys of pictures; k-means brings them back to what
    # they were.
    small = page.quantize(
        256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE
    )
    small.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
