"""Fail unless a report has every page and image that it names, and loads nothing from a network.

Usage: ``python3 .ci/check_pages.py report``. It needs nothing but Python.
"""

import base64
import binascii
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """Collects the addresses of a page's links, of its images, and of what else it loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.images, self.loads = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        source, target = attributes.get("src"), attributes.get("href")
        if tag == "a":
            self.links.append(target or "")
        elif tag == "img":
            self.images.append(source or "")
        elif tag == "link" and re.search("style|load|icon", attributes.get("rel") or ""):
            self.loads.append(target or "")
        elif source:  # of a script, a frame, or a video
            self.loads.append(source)


def is_file(address: str, folder: Path) -> bool:
    """Whether an address leads to a file in the folder that is not empty."""
    parts = urlsplit(address)
    path = folder / unquote(parts.path)
    return not (parts.scheme or parts.netloc) and path.is_file() and path.stat().st_size > 0


def has_data(source: str, folder: Path) -> bool:
    """Whether an image's address holds a picture, or leads to one."""
    head, _, text = source.partition("base64,")
    if not head.startswith("data:"):
        return is_file(source, folder)
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        return False
    return len(content) > len(PNG) and ("image/png" not in head or content.startswith(PNG))


def draws(name: str) -> bool:
    """Whether the committed notebook of a page has figures."""
    path = NOTEBOOKS / f"{name}.ipynb"
    if not path.exists():
        return False
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return any("image/png" in output.get("data", {}) for output in outputs)


def problems(folder: Path) -> list[str]:
    """Return a line for each page, image or other file that is missing or would be fetched."""
    if not (folder / "index.html").is_file():
        return [f"there is no {folder.name}/index.html"]
    found, seen, names = [], {"index.html"}, ["index.html"]
    for name in names:  # it grows by the pages that are linked
        if not (folder / name).is_file():
            found.append(f"{name} is missing")
            continue
        page = Page(folder / name)
        links = [urlsplit(link) for link in page.links]
        linked = {unquote(link.path) for link in links if link.path and not link.scheme}
        names += sorted(linked - seen)
        seen |= linked
        missing = sum(not has_data(source, folder) for source in page.images)
        if missing or (not page.images and draws(Path(name).stem)):
            found.append(f"{name}: {missing or 'all'} of its images missing")
        found += [f"{name} loads {file}" for file in page.loads if not is_file(file, folder)]
    return found if len(names) > 1 else ["index.html links no page"]


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    print("\n".join(lines) or "every page and every image is there")
    sys.exit(bool(lines))
