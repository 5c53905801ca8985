"""The page of a job: one file, nothing from elsewhere, small however many pictures it holds."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from dualstylegan.errors import UsageError
from dualstylegan.media.pages import PAGE_BYTES, Page, check_page


def noise(seed: int, height: int = 400, width: int = 600) -> np.ndarray:
    """The worst that can happen to a JPEG."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Links(HTMLParser):
    """Whatever a browser would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "poster", "srcset")]


def stored(text: str) -> list[bytes]:
    return [base64.b64decode(one) for one in json.loads(re.search(r"^const pictures = (.*);$", text, re.M)[1])]


def test_a_page_is_one_file_that_asks_for_nothing(tmp_path):
    page = Page("photos in toon:7", pictures=2)
    page.add("a.jpg", noise(0), [("toon:7", noise(1))])
    page.write(tmp_path / "report.html", {"dsg": "0.1"})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Links(text).found == []
    assert "http" not in text.replace("http-equiv", "")
    assert all(one.startswith(b"\xff\xd8") for one in stored(text))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_photo_in_several_styles_is_stored_once(tmp_path):
    page = Page("two styles", pictures=3)
    page.add("a.jpg", noise(0), [("toon:7", noise(1)), ("toon:8", noise(2))])
    page.write(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(stored(text)) == 3
    assert text.count("<figure") == 2
    assert "<option>toon:8</option>" in text


def test_a_thousand_pictures_stay_small(tmp_path):
    page = Page("many", pictures=1000)
    for seed in range(20):
        page.add(f"{seed}.jpg", noise(seed), [("toon:7", noise(seed + 50))])
    page.write(tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 40 * PAGE_BYTES / 1000 * 4 / 3 + 40_000


def test_what_users_named_cannot_break_the_page(tmp_path):
    page = Page("<script>alert(1)</script>", pictures=2)
    page.add('"><img src=x onerror=alert(1)>.jpg', noise(0), [("a&b", noise(1))])
    page.fail("caf\udce9.jpg", "</ul><script>")
    page.write(tmp_path / "r.html", {"<b>": "{braces}"})
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert Links(text).found == []
    assert text.count("<script>") == 1
    assert "{braces}" in text


def test_failures_are_told_with_their_reason(tmp_path):
    page = Page("photos")
    page.fail("broken.jpg", "the file is cut short")
    page.write(tmp_path / "r.html")
    assert "<b>broken.jpg</b>: the file is cut short" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_page_has_a_pages_name():
    with pytest.raises(UsageError, match=r"\.html"):
        check_page("report.txt")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
USER = """<script>
const line = document.querySelector('input'), seen = document.querySelectorAll('img');
line.value = 80;
line.dispatchEvent(new Event('input', { bubbles: true }));
setTimeout(() => {
  only.value = 'toon:8';
  only.onchange();
  document.title = JSON.stringify({
    errors, shown: [...seen].map(img => img.naturalWidth), line: line.parentElement.style.getPropertyValue('--at'),
    film: document.querySelector('video').src.slice(0, 21), overflow: document.body.scrollWidth > innerWidth,
    styles: [...document.querySelectorAll('figure:not([hidden])')].map(figure => figure.dataset.style),
  });
}, 1000);
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs a Chromium")
def test_a_browser_shows_what_is_near_moves_the_line_and_picks_a_style(tmp_path):
    page, small = Page("two styles", pictures=123), [noise(seed, 120, 180) for seed in range(3)]
    page.add_film("0.mp4", "toon:7", b"no film")
    for number in range(40):
        page.add(f"{number:02}.jpg", small[0], [("toon:7", small[1]), ("toon:8", small[2])])
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    watched = "<script>const errors = []; onerror = error => errors.push(error)</script><title>"
    (tmp_path / "page.html").write_text(text.replace("<title>", watched) + USER, encoding="utf-8")

    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    look = ["--window-size=500,900", "--virtual-time-budget=4000", "--dump-dom", (tmp_path / "page.html").as_uri()]
    dom = subprocess.run([CHROMIUM, *options, *look], capture_output=True, text=True, timeout=120).stdout
    told = json.loads(re.search("<title>(.*?)</title>", dom)[1])
    assert told["errors"] == [] and not told["overflow"]
    assert 0 < sum(width > 0 for width in told["shown"]) < 80  # of 160: what is far below has not been unpacked
    assert told["line"] == "80%" and told["film"] == "data:video/mp4;base64"
    assert told["styles"] == ["toon:8"] * 40
