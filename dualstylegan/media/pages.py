"""One self-contained HTML page to look at a job with: before and after under a slider, films, failures, settings.

Nothing on it comes from elsewhere: pictures and short films are inside, and twenty lines of script, which unpack
what is nearly in sight and move the line between before and after. Pictures are uint8 (H, W, 3) RGB of any size.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dualstylegan.errors import UsageError
from dualstylegan.runtime.files import whole_file

PAGE_SUFFIXES = (".html", ".htm")
PAGE_BYTES = 48 << 20  # of pictures, however many: as base64 they take a third more, and 60 MB is what a browser likes
MOST_PX, LEAST_PX = 640, 128  # the longer side of a picture on the page
MOST_BYTES = 96 << 10  # and what one may take
QUALITIES = (85, 75, 60, 45)


@dataclass
class _Card:
    """One result: stored pictures by number, or a film."""

    title: str
    label: str
    before: int | None = None
    after: int | None = None
    film: bytes | None = None


@dataclass
class Page:
    """A page being collected. `pictures` is about how many it will hold: the more, the smaller each is stored."""

    title: str
    pictures: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    stored: list[tuple[str, int, int]] = field(default_factory=list)  # base64 JPEG, width, height
    cards: list[_Card] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, title: str, before: np.ndarray | None, after: Sequence[tuple[str, np.ndarray]]) -> None:
        """A photo and what each style, by label, made of it; without `before` a picture by itself."""
        first = None if before is None else self._store(before)
        self.cards += [_Card(title, label, first, self._store(picture)) for label, picture in after]

    def add_film(self, title: str, label: str, mp4: bytes) -> None:
        """A short silent film, H.264 in MP4."""
        self.cards.append(_Card(title, label, film=mp4))

    def fail(self, title: str, reason: str) -> None:
        self.failures.append((title, reason))

    def write(self, path: str | os.PathLike, facts: Mapping[str, str] | None = None) -> None:
        """Write it, whole or not at all. `facts` (settings, versions, counts) stand at its foot."""
        check_page(path)
        with whole_file(path) as temporary:
            temporary.write_text(self._html({**self.facts, **(facts or {})}), encoding="utf-8")

    def _store(self, pixels: np.ndarray) -> int:
        picture = Image.fromarray(pixels)
        most_bytes = min(MOST_BYTES, PAGE_BYTES // max(1, self.pictures))
        # About a seventh of a byte for each pixel of a photo at quality 85.
        side_px = min(MOST_PX, max(LEAST_PX, round((7 * most_bytes) ** 0.5)))
        file = io.BytesIO(bytes(most_bytes + 1))
        while len(file.getvalue()) > most_bytes and side_px >= LEAST_PX // 2:
            picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=3)
            for quality in QUALITIES:
                file = io.BytesIO()
                picture.save(file, "JPEG", quality=quality, optimize=True)
                if file.tell() <= most_bytes:
                    break
            side_px = side_px * 3 // 4  # what is all noise
        self.stored.append((base64.b64encode(file.getvalue()).decode(), *picture.size))
        return len(self.stored) - 1

    def _html(self, facts: Mapping[str, str]) -> str:
        labels = list(dict.fromkeys(card.label for card in self.cards if card.label))
        choices = "".join(f"<option>{html.escape(label)}</option>" for label in labels) if len(labels) > 1 else ""
        chosen = f'<label>Style <select id="only"><option value="">all</option>{choices}</select></label>'
        failed = "".join(
            f"<li><b>{html.escape(_text(name))}</b>: {html.escape(_text(why))}</li>" for name, why in self.failures
        )
        return _PAGE.format(
            title=html.escape(_text(self.title)),
            chosen=chosen if choices else "",
            hint="<p>Drag the line, or press the arrow keys, to compare.</p>" if self._compares else "",
            cards="\n".join(
                map(self._figure, sorted(self.cards, key=lambda card: card.title))
            ),  # they end in any order
            failures=f"<h2>Failed</h2><ul class=failed>{failed}</ul>" if failed else "",
            facts="".join(
                f"<tr><th>{html.escape(_text(k))}</th><td>{html.escape(_text(v))}</td></tr>" for k, v in facts.items()
            ),
            pictures=json.dumps([data for data, _, _ in self.stored]),
        )

    @property
    def _compares(self) -> bool:
        return any(card.before is not None for card in self.cards)

    def _figure(self, card: _Card) -> str:
        title, label = html.escape(_text(card.title)), html.escape(_text(card.label))
        caption = f"<figcaption>{title}{f' <i>{label}</i>' if label else ''}</figcaption>"
        if card.film is not None:
            source = base64.b64encode(card.film).decode()
            seen = f'<video controls muted loop playsinline preload="metadata" data-film="{source}"></video>'
            return f'<figure data-style="{label}">{seen}{caption}</figure>'
        assert card.after is not None  # what is no film is a picture
        _, width, height = self.stored[card.after]
        after = f'<img class="after" data-picture="{card.after}" width={width} height={height} alt="{title}, {label}">'
        if card.before is None:
            return f'<figure data-style="{label}"><div class="pair">{after}</div>{caption}</figure>'
        before = f'<img class="before" data-picture="{card.before}" width={width} height={height} alt="{title}">'
        line = f'<input type="range" min=0 max=100 value=50 aria-label="how much of {title} is shown before">'
        return f'<figure data-style="{label}"><div class="pair">{after}{before}<s></s>{line}</div>{caption}</figure>'


def is_page(path: str | os.PathLike) -> bool:
    return Path(path).suffix.lower() in PAGE_SUFFIXES


def check_page(path: str | os.PathLike) -> None:
    """Raises UsageError where the name is not that of a page."""
    if not is_page(path):
        raise UsageError(f"A page is written as .html, not as '{Path(path).name}'.")


def _text(value: object) -> str:
    """A file's name need not be text; a page must be."""
    return os.fsencode(str(value)).decode("utf-8", "replace")


# Pictures lie in one list and reach their <img> when they are nearly in sight: a thousand of them scroll like ten.
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:; media-src data: blob:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 110rem; }}
h1 {{ font-size: 1.3rem; margin: 0; }} h2 {{ font-size: 1.05rem; }} p {{ margin: .2rem 0 0; opacity: .7; }}
header {{ display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; align-items: baseline; margin-bottom: 1rem; }}
main {{ display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }}
figure {{ margin: 0; content-visibility: auto; contain-intrinsic-size: auto 22rem; }}
figcaption {{ margin-top: .3rem; overflow-wrap: anywhere; }} figcaption i {{ opacity: .65; }}
.pair {{ position: relative; line-height: 0; background: #8883; border-radius: 6px; overflow: hidden; }}
img, video {{ width: 100%; height: auto; display: block; border-radius: 6px; }}
.before {{ position: absolute; inset: 0; height: 100%; clip-path: inset(0 calc(100% - var(--at, 50%)) 0 0); }}
.pair s {{ position: absolute; inset: 0 auto 0 var(--at, 50%); width: 2px; margin-left: -1px; background: #fff;
 box-shadow: 0 0 4px #000; pointer-events: none; }}
.pair input {{ position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
 touch-action: pan-y; }}
.pair:focus-within {{ outline: 3px solid #4a90e2; outline-offset: 2px; }}
.failed b {{ overflow-wrap: anywhere; }} table {{ border-spacing: .8rem .1rem; margin-left: -.8rem; }}
th {{ text-align: left; font-weight: 600; vertical-align: top; white-space: nowrap; }}
td {{ overflow-wrap: anywhere; }} [hidden] {{ display: none; }}
</style>
<header><h1>{title}</h1>{chosen}{hint}</header>
<main>
{cards}
</main>
{failures}
<h2>How it was made</h2>
<table>{facts}</table>
<noscript>The pictures need JavaScript, which is on this page alone and loads nothing.</noscript>
<script>
const pictures = {pictures};
const near = new IntersectionObserver(seen => {{
  for (const {{ target, isIntersecting }} of seen) {{
    if (!isIntersecting) continue;
    for (const img of target.querySelectorAll('img'))
      img.src = 'data:image/jpeg;base64,' + pictures[img.dataset.picture];
    for (const film of target.querySelectorAll('video')) film.src = 'data:video/mp4;base64,' + film.dataset.film;
    near.unobserve(target);
  }}
}}, {{ rootMargin: '800px' }});
document.querySelectorAll('figure').forEach(figure => near.observe(figure));
document.addEventListener('input', ({{ target }}) => {{
  if (target.type === 'range') target.parentElement.style.setProperty('--at', target.value + '%');
}});
const only = document.getElementById('only');
if (only) only.onchange = () => document.querySelectorAll('figure').forEach(figure => {{
  figure.hidden = only.value && figure.dataset.style !== only.value;
}});
</script>
</html>
"""
