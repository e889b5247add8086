"""Draw docs/images/strip.png: what `bytelm score --html` shows of a short text, in a real Chromium.

    python scripts/picture.py

Needs the package playwright and a Chromium (apt-get install chromium).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright

CHROMIUM: Final = Path("/usr/bin/chromium")
IMAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "images" / "strip.png"
TEXT: Final = "def fibonacci(n):\n    return fibonacci(n - 1)"
SHOWN: Final = 22  # the byte whose likeliest bytes are shown: the r of return
WIDTH: Final = 720


def main() -> None:
    """Score the text, open the document, and take a picture of its strip."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "strip.html"
        code = "import sys; from bytelm.cli.main import main; main(sys.argv[1:])"
        subprocess.run([sys.executable, "-c", code, "score", TEXT, "--html", str(page)], check=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            view = browser.new_page(viewport={"width": WIDTH, "height": 800}, device_scale_factor=1.5)
            view.emulate_media(color_scheme="light")
            view.goto(page.as_uri())
            view.locator(".byte").nth(SHOWN).hover()
            IMAGE.parent.mkdir(exist_ok=True)
            view.locator("section.surprisal").screenshot(path=IMAGE)
            browser.close()
    print(f"{IMAGE}: {IMAGE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
