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

import pytest
from PIL import Image

from ncap_jax.report import html
from ncap_jax.selection.ranking import rank_trajectories
from tests.support.browser import CHROMIUM, browse
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


# Reports, beside their file, in frames of these widths: what each page and table needs, and has.
MEASURE = """<body>{frames}<script>onload = () => {{
  const widths = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument;
    return [page.documentElement, ...page.querySelectorAll(".scroll")].map(
      part => [part.scrollWidth, part.clientWidth]);
  }});
  document.title = JSON.stringify(widths);
}};</script></body>"""


def test_nothing_runs_over_the_side(tmp_path):
    """Neither page nor tables on a laptop's screen; on a phone the tables scroll, the page not."""
    pool = make_pool(models=13)
    for number, name in enumerate(
        ("timm:convnextv2_atto.fcmae_ft_in1k", "hf://google/mobilenet_v2_1.0_224", "x" * 40)
    ):
        pool[number] = dataclasses.replace(pool[number], model=name)
    broken = "ModelError: cannot read /home/somebody/.cache/ncap_jax/weights/model.safetensors"
    pool[5] = dataclasses.replace(pool[5], status="out_of_memory", message=broken)
    report = saved(tmp_path, html.render(rank_trajectories(pool, "digits", info=whole_info())))
    frames = "".join(
        f'<iframe src="{report.as_uri()}" style="width:{width}px;height:900px;border:0"></iframe>'
        for width in (1180, 1280, 400)
    )
    (tmp_path / "frames.html").write_text(MEASURE.format(frames=frames), encoding="utf-8")
    dom, _, _ = browse(
        tmp_path / "frames.html", tmp_path / "profile", "--allow-file-access-from-files"
    )
    found = re.search(r"<title>(.*?)</title>", dom)
    assert found is not None
    *laptops, (phone, *_) = json.loads(unescape(found[1]))
    assert [len(parts) for parts in laptops] == [3, 3]
    for needed, had in (*laptops[0], *laptops[1], phone):
        assert needed <= had


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
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_axe_finds_no_violation(page, axe, tmp_path, scheme, width):
    options = [f"--window-size={width},900"]
    if scheme == "dark":
        options.append("--blink-settings=preferredColorScheme=0")
    assert violations(page, axe, tmp_path, *options) == []


@pytest.mark.slow
def test_axe_would_notice(page, axe, tmp_path):
    broken = page.replace("</main>", '<img src="data:,"><p style="color:#eee">pale</p></main>')
    found = violations(broken, axe, tmp_path)
    assert {"image-alt", "color-contrast"} <= {rule for _, rule, _ in found}


@pytest.mark.slow
def test_the_pictures_in_the_documents_can_be_taken(page, tmp_path):
    """`make pictures`: light, dark and as wide as a phone, and small enough to be kept."""
    script = pathlib.Path(__file__).resolve().parents[2] / "docs" / "pictures.py"
    command = [sys.executable, str(script), str(saved(tmp_path, page)), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    pictures = {}
    for path in tmp_path.glob("report*.png"):
        assert path.stat().st_size < 250_000
        pictures[path.stem] = Image.open(path).convert("RGB")
    assert pictures["report-phone"].width == 390 * 1.5
    assert min(pictures["report"].getpixel((2, 2))) > 240
    assert max(pictures["report-dark"].getpixel((2, 2))) < 40
