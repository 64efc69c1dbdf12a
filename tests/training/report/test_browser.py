"""The page in a real browser: nothing broken, nothing on the console, nothing wider than a phone."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flowpairs.training.report.page import write_report

Make = Callable[..., Path]  # what the fixtures make_store and make_run are

# Chromium's windows are at least 500 pixels wide, hence the frame. The page itself holds no script.
PHONE = """<!doctype html><meta charset="utf-8"><body>
<iframe style="width: 390px; height: 900px; border: 0" srcdoc="{page}"></iframe><pre></pre><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const figures = [...page.querySelectorAll("svg[role=img]")];
  document.querySelector("pre").textContent = JSON.stringify({{
    width: root.clientWidth,
    overflow: root.scrollWidth - root.clientWidth,
    images: page.images.length,
    broken: [...page.images].filter(image => !image.complete || !image.naturalWidth).length,
    flat: figures.filter(svg => svg.getBoundingClientRect().height < 50).length,
    figures: figures.length,
    background: getComputedStyle(page.body).backgroundColor,
  }});
}});
</script>"""


def browse(path: Path, profile: Path, *options: str) -> tuple[dict[str, object], list[str]]:
    """What the script above saw, and the lines that came on the console."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium on PATH, as Debian's package `chromium` installs it")
    path.with_name("phone.html").write_text(PHONE.format(page=html.escape(path.read_text())))
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={profile}", *options,
            "--dump-dom", path.with_name("phone.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    [seen] = re.findall(r"<pre>(.+?)</pre>", done.stdout)
    return json.loads(html.unescape(seen)), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("data", ["images", "moons", "vectors"])
def test_a_phone_shows_all_of_it(make_store: Make, make_run: Make, tmp_path: Path, data: str) -> None:
    page = write_report([
        make_store("a-store-with-a-rather-long-name-of-forty-letters", data=data, blocks=5),
        make_run("ot", data=data),
        make_run("a-run-with-a-rather-long-name-of-forty-letters-x", data=data, method="independent", scale=2.0),
        make_run("not-evaluated", evaluated=False),
    ])  # fmt: skip
    seen, console = browse(page, tmp_path / "profile")
    assert console == []
    assert seen["width"] == 390
    assert seen["overflow"] == 0
    assert seen["broken"] == 0
    assert seen["flat"] == 0
    assert (seen["images"], seen["figures"]) == {"images": (44, 10), "moons": (0, 20), "vectors": (12, 12)}[data]


def test_the_page_follows_the_dark_scheme(make_run: Make, tmp_path: Path) -> None:
    page = write_report([make_run("ot")])
    light, _ = browse(page, tmp_path / "light")
    dark, _ = browse(page, tmp_path / "dark", "--blink-settings=preferredColorScheme=0")
    assert light["background"] == "rgb(253, 253, 252)"
    assert dark["background"] == "rgb(22, 24, 28)"
