"""A real Chromium for tests of pages: started, and watched for what it asks and what it logs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

CHROMIUM = Path("/usr/bin/chromium")
EXPECTED = bool(os.environ.get("BYTELM_EXPECT_CHROMIUM"))

if not EXPECTED:
    pytest.importorskip("playwright", reason="the package playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import Browser, Page, Request, sync_playwright  # noqa: E402 - see above


@contextmanager
def started() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, as in a container.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """What pages logged as errors, and the addresses that they asked for, but for those that hold their data."""

    console: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", lambda message: self.console.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if not request.url.startswith("data:"):
            self.addresses.append(request.url)

    @property
    def hosts(self) -> set[str]:
        return {urlsplit(address).netloc for address in self.addresses}
