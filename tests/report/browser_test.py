"""The report in a real browser: no console message, no request, sorting works, accessible."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
from html import unescape

import numpy as np
import pytest
from PIL import Image

from ncap_jax.report import html
from ncap_jax.report.finished import RankingSummary
from ncap_jax.selection.ranking import rank_trajectories
from tests.support.browser import CHROMIUM, browse
from tests.support.finished import finished_run
from tests.support.page import whole_info
from tests.support.pool import make_pool

# One transparent pixel: a PNG that decodes.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da6364f8"
    "cf500f0003860180345968000000000049454e44ae426082"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def page() -> str:
    info = whole_info(contact_sheet_png=PNG)
    pool = make_pool(models=9)
    return html.render(rank_trajectories(pool, "digits", info=info))


LONG = ("timm:convnextv2_atto.fcmae_ft_in1k", "hf://google/mobilenet_v2_1.0_224", "x" * 40)


@pytest.fixture(scope="module")
def winner_page() -> str:
    """With a winner, mistakes, and a ranking that has changed since; with its own figures alone."""
    ranking = dataclasses.replace(rank_trajectories(make_pool(models=3), "photos"), trajectories=())
    then = dataclasses.replace(RankingSummary.of(ranking), epochs=3)
    run = finished_run(ranking=then, seconds=80.0)
    return html.render(ranking, run, "python -m ncap_jax finish runs/photos")


def saved(tmp_path, text: str):
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_console_message_and_no_request(page, tmp_path):
    dom, messages, requests = browse(saved(tmp_path, page), tmp_path / "profile")
    assert "Fine-tune model_" in dom
    assert messages == []
    assert requests == []


def test_the_check_would_notice(page, tmp_path):
    """Messages and requests are seen where there are any, and the page's policy forbids both."""
    image = '<img alt="" src="http://example.invalid/pixel.png">'
    script = "<script>console.error('broken')</script>"
    free = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    _, messages, requests = browse(
        saved(tmp_path, free.replace("</body>", f"{image}{script}</body>")), tmp_path / "profile"
    )
    assert any("broken" in message for message in messages)
    assert requests == ["GET http://example.invalid/pixel.png HTTP/1.1"]
    _, messages, requests = browse(
        saved(tmp_path, page.replace("</body>", f"{image}</body>")), tmp_path / "profile"
    )
    assert any("Content Security Policy" in message for message in messages)
    assert requests == []


def order_after(page, tmp_path, clicks: int, column: int) -> list[str]:
    click = f"document.querySelectorAll('table.sortable th button')[{column}].click();" * clicks
    text = page.replace("</body>", f"<script>{click}</script></body>")
    dom, messages, _ = browse(saved(tmp_path, text), tmp_path / "profile")
    assert messages == []
    return re.findall(r'<th scope="row" data-value="(model_\d)"', dom)


def test_columns_sort_both_ways(page, tmp_path):
    names = [f"model_{i}" for i in range(9)]
    assert order_after(page, tmp_path, clicks=1, column=1) == names
    assert order_after(page, tmp_path, clicks=2, column=1) == names[::-1]


# Reports, beside their file, in frames: what each page and table needs and has in width, and the
# figures that break at the end of a line.
MEASURE = """<body>{frames}<script>onload = () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument;
    const widths = [page.documentElement, ...page.querySelectorAll(".scroll")].map(
      part => [part.scrollWidth, part.clientWidth]);
    const figures = [...page.querySelectorAll("td:not(:has(small))")].filter(
      cell => /^[\\d.,]+ %$/.test(cell.textContent));
    const broken = figures.filter(cell => {{
      const range = page.createRange();
      range.selectNodeContents(cell);
      return range.getClientRects().length > 1;
    }});
    return [widths, broken.map(cell => cell.textContent)];
  }});
  document.title = JSON.stringify(found);
}};</script></body>"""


WIDTHS = (1180, 1280, 400)


def crowded() -> dict[str, str]:
    """Pages with names as long as they come: of a ranking, and of one with a winner."""
    pool = make_pool(models=13)
    for number, name in enumerate(LONG):
        pool[number] = dataclasses.replace(pool[number], model=name)
    broken = "ModelError: cannot read /home/somebody/.cache/ncap_jax/weights/model.safetensors"
    pool[5] = dataclasses.replace(pool[5], status="out_of_memory", message=broken)
    ranking = rank_trajectories(pool, "digits", info=whole_info())
    run = finished_run(tuple(f"{number} {'a kind of bird ' * 9}" for number in range(40)))
    models = tuple(dataclasses.replace(m, name=n) for m, n in zip(run.models, LONG, strict=False))
    wrong = tuple(dataclasses.replace(w, name=f"/{'y' * 300}.jpg") for w in run.wrong)
    facts = dataclasses.replace(run.facts, name=LONG[0])
    then = RankingSummary("logme", 3, LONG[1:])
    run = dataclasses.replace(run, facts=facts, models=models, wrong=wrong, ranking=then)
    bare = dataclasses.replace(ranking, trajectories=())
    finish = f"python -m ncap_jax finish /home/{'z' * 90}/runs"
    return {"ranking": html.render(ranking), "winner": html.render(bare, run, finish)}


def test_nothing_runs_over_the_side(tmp_path):
    """Neither page nor tables on a laptop's screen; on a phone the tables scroll, the page not."""
    frames = ""
    for name, page in crowded().items():
        report = tmp_path / f"{name}.html"
        report.write_text(page, encoding="utf-8")
        frames += "".join(
            f'<iframe src="{report.as_uri()}" style="width:{width}px;height:900px;border:0">'
            "</iframe>"
            for width in WIDTHS
        )
    (tmp_path / "frames.html").write_text(MEASURE.format(frames=frames), encoding="utf-8")
    dom, _, _ = browse(
        tmp_path / "frames.html", tmp_path / "profile", "--allow-file-access-from-files"
    )
    found = re.search(r"<title>(.*?)</title>", dom)
    assert found is not None
    measured = json.loads(unescape(found[1]))
    # The page, and its tables: ranking and methods; with a winner figures, models, two of classes.
    assert [len(parts) for parts, _ in measured] == [3, 3, 3, 7, 7, 7]
    for number, (parts, broken) in enumerate(measured):
        width = WIDTHS[number % len(WIDTHS)]
        for needed, had in parts if width > 1000 else parts[:1]:
            assert needed <= had, (number, width)
        assert broken == []


@pytest.fixture(scope="session")
def axe(tmp_path_factory) -> str:
    """The accessibility checker's source, from npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), "axe-core@4"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if result.returncode != 0:
        pytest.skip(f"axe-core could not be installed: {result.stderr[-200:]}")
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


def violations(page, axe, tmp_path, *options):
    run = """
    axe.run().then(result => {
      const out = document.createElement("pre");
      out.id = "axe";
      out.textContent = JSON.stringify(result.violations.map(v => [v.impact, v.id,
        v.nodes.map(n => n.html.slice(0, 120))]));
      document.body.append(out);
    });"""
    text = page.replace("</body>", f"<script>{axe}</script><script>{run}</script></body>")
    dom, _, _ = browse(saved(tmp_path, text), tmp_path / "profile", *options)
    found = re.search(r'<pre id="axe">(.*?)</pre>', dom, flags=re.DOTALL)
    assert found, "axe did not finish"
    return json.loads(unescape(found.group(1)))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["page", "winner_page"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_axe_finds_no_violation(request, which, axe, tmp_path, scheme, width):
    options = [f"--window-size={width},900"]
    if scheme == "dark":
        options.append("--blink-settings=preferredColorScheme=0")
    assert violations(request.getfixturevalue(which), axe, tmp_path, *options) == []


@pytest.mark.slow
def test_axe_would_notice(page, axe, tmp_path):
    broken = page.replace("</main>", '<img src="data:,"><p style="color:#eee">pale</p></main>')
    found = violations(broken, axe, tmp_path)
    assert {"image-alt", "color-contrast"} <= {rule for _, rule, _ in found}


@pytest.mark.slow
def test_the_pictures_in_the_documents_can_be_taken(winner_page, tmp_path):
    """`make pictures`: light, dark and as wide as a phone, small files with true colours."""
    script = pathlib.Path(__file__).resolve().parents[2] / "docs" / "pictures.py"
    command = [sys.executable, str(script), str(saved(tmp_path, winner_page)), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    pictures = {}
    for path in tmp_path.glob("report*.png"):
        assert path.stat().st_size < 250_000
        pictures[path.stem] = Image.open(path).convert("RGB")
    assert pictures["report-phone"].width == 390 * 1.5
    assert min(pictures["report"].getpixel((2, 2))) > 240
    assert max(pictures["report-dark"].getpixel((2, 2))) < 40
    for name, panel in (("report", (244, 245, 247)), ("report-dark", (30, 35, 40))):
        pixels = np.asarray(pictures[name], np.int64)
        assert np.mean(np.abs(pixels - panel).max(axis=-1) <= 2) > 0.02
