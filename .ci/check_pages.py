"""Fail unless every page that a report's index.html links is there, and every image on it.

Usage: ``python3 .ci/check_pages.py report``. It needs nothing but Python.
"""

import base64
import binascii
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """Collects the addresses of a page's links and images."""

    def __init__(self, path: Path):
        super().__init__()
        self.found = {"a": [], "img": []}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in self.found:
            self.found[tag].append(attributes.get("href" if tag == "a" else "src") or "")


def has_data(source: str, folder: Path) -> bool:
    """Whether an image's address holds a picture, or leads to one."""
    head, _, text = source.partition("base64,")
    if not head.startswith("data:"):
        return bool(source) and (folder / source).is_file() and (folder / source).stat().st_size > 0
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
    """Return a line for each missing page or image."""
    if not (folder / "index.html").is_file():
        return [f"there is no {folder.name}/index.html"]
    links = [urlsplit(link) for link in Page(folder / "index.html").found["a"]]
    names = [link.path for link in links if link.path and not link.scheme]
    found = [] if names else ["index.html links no page"]
    for name in names:
        if not (folder / name).is_file():
            found.append(f"{name} is missing")
            continue
        images = Page(folder / name).found["img"]
        missing = sum(not has_data(source, folder) for source in images)
        if missing or (not images and draws(Path(name).stem)):
            found.append(f"{name}: {missing or 'all'} of its images missing")
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    print("\n".join(lines) or "every page and every image is there")
    sys.exit(bool(lines))
