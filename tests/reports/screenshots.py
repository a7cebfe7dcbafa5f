"""Pictures of the report's pages for people to look at.

``python -m tests.reports.screenshots DIR`` writes them, with everything unfolded and a layer
chosen, so that one picture shows all of a page.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.reports.pages import PAGES, WIDTHS, draw_all, launched, opened, unfold

_MOST = 16_000
"""Pixels of height that a browser draws at once."""


def take(folder: Path) -> list[Path]:
    """Writes a picture of every page at every width, and at 1280 pixels a dark one, too."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with launched() as browser:
        for name in PAGES:
            for width in WIDTHS:
                with opened(browser, name, folder, width) as page:
                    unfold(page)
                    draw_all(page)
                    if page.locator(".layer select").count():
                        page.locator(".layer select").first.select_option(index=1)
                        draw_all(page)
                    for scheme in ("light", "dark")[: 2 if width == 1280 else 1]:
                        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
                        height = page.evaluate("document.documentElement.scrollHeight")
                        page.set_viewport_size({"width": width, "height": min(height, _MOST)})
                        page.wait_for_timeout(500)
                        path = folder / f"{name}-{width}-{scheme}.png"
                        page.screenshot(path=path)
                        taken.append(path)
    return taken


if __name__ == "__main__":
    for each in take(Path(sys.argv[1])):
        sys.stdout.write(f"{each}\n")
