"""The documentation site: it is made without a dead link, and a browser shows its pages."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowpairs.jobs.cli import COMMANDS
from flowpairs.jobs.config import all_keys

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "docs" / "site" / "mkdocs.yml"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("the extra `docs` is not installed")
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(CONFIG)]
    done = subprocess.run(
        [*command, "--site-dir", str(directory)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return directory


def test_every_page_is_there_and_references_are_whole(site: Path) -> None:
    for page in ("index", "faq", "comparisons", "how-to/one-gpu", "project/changelog", "tutorials/your_data"):
        assert (site / f"{page}.html").stat().st_size > 5000, page
    keys, commands = ((site / "reference" / f"{name}.html").read_text() for name in ("keys", "commands"))
    assert [key.name for _, key in all_keys() if not key.parts and f"<code>{key.name}</code>" not in keys] == []
    assert [name for name in COMMANDS if f'<h2 id="{name}">' not in commands] == []
    public = (site / "reference" / "public.html").read_text()
    assert 'id="couple"' in public
    assert "x0, x1, labels" not in public.split("<body")[0]
    for path in site.rglob("*.html"):  # nothing is fetched from elsewhere when a page opens
        text = path.read_text()
        assert "fonts.googleapis.com" not in text, path
        assert 'src="https://' not in text, path


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    ("page", "shows"),
    [
        ("index.html", "A platform engineer"),
        ("reference/keys.html", "Normalised entropy E for which the regularisation is found"),
        ("reference/commands.html", "check everything, say what would be done, and do nothing"),
        ("tutorials/your_cost.html", "your_cost.py"),
    ],
)
def test_a_browser_shows_it(site: Path, page: str, shows: str, tmp_path: Path) -> None:
    """With its scripts run: the document's text after them, and a picture in which something is drawn."""
    shot = tmp_path / "page.png"
    assert BROWSER is not None
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/u",
    ]
    where = (site / page).as_uri()
    command = [BROWSER, *options, f"--screenshot={shot}", "--window-size=1200,1600", "--dump-dom", where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if not done.stdout:  # some versions do one of the two
        done = subprocess.run(
            [BROWSER, *options, "--dump-dom", where], capture_output=True, text=True, timeout=120, check=False
        )
    assert shows.lower() in done.stdout.lower()
    from PIL import Image

    with Image.open(shot) as picture:
        assert picture.size == (1200, 1600)
        assert len(picture.convert("L").getcolors()) > 50
