"""Pages in a browser that are watched for errors."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page


@contextlib.contextmanager
def watched(
    browser: Any, size: tuple[int, int], timeout_ms: int
) -> Iterator[tuple["Page", list[str]]]:
    """Yield a page and a list of errors, of its scripts too; any at the end fails the test."""
    errors: list[str] = []
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(timeout_ms)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page, errors
    page.close()
    assert errors == []
