"""A Sphinx extension: what a reader loads is light, and nothing of the machine that built it.

- Images that a notebook carries within its HTML become files, so that a browser fetches the drawing
  for its screen alone; drawings are written as short as they can be, by scour.
- MathJax is kept in the one format in use, for the pages with formulas, and of all else that
  extensions copy only what a page, a style sheet or a script names.
- Of the theme's icons those are kept that a page or a script names.
- The notebooks that a page offers for download are without outputs, timings and paths.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import Any

from docutils import nodes
from exhibits import OPENING, parts
from scour import scour
from sphinx.application import Sphinx

IMAGES = "_images"
IMAGE = re.compile(
    r"(?P<tag><(?P<kind>img|source)\b[^>]*?)"
    r'(?P<name>src|srcset)="data:image/(?P<format>svg\+xml|png|jpeg|webp);base64,(?P<data>[^"]+)"'
)
ENDINGS = {"svg+xml": "svg", "png": "png", "jpeg": "jpg", "webp": "webp"}
# MathJax names its fonts and the packages of TeX in parts, at run time; it never asks for all.
MATHJAX = re.compile(
    r"mathjax/(tex-chtml\.js|output/chtml/fonts/.*|input/tex/extensions/(?!all-packages).*)"
)
FORMULA = re.compile(r'class="math\b')
# An icon in the theme's script: its name, or others in the list, and its outline.
ICON = re.compile(
    r'(?:"(?P<quoted>[\w-]+)"|(?P<plain>[A-Za-z_$][\w$]*)):'
    r'\[\d+,\d+,\[(?P<others>[^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?'
)
ICONS = "_static/scripts/fontawesome.js"
FEW = 8  # drawings that are shortened sooner than other processes would have started
TEXTS = {".html", ".css", ".js"}
CELL_KEYS = ("tags",)  # what of a cell's metadata concerns a reader
NOTEBOOK_KEYS = ("kernelspec", "language_info")


def image_files(text: str) -> tuple[str, dict[str, bytes]]:
    """HTML with addresses `{IMAGES}/NAME` in place of the images in it, and these by their name.

    The images of a figure have the name of its anchor, that for narrow screens with "-narrow".
    """
    found: dict[str, bytes] = {}
    pieces = []
    for part in parts(text):
        opened = OPENING.search(part)

        def moved(match: re.Match[str], opened: re.Match[str] | None = opened) -> str:
            raw = base64.b64decode(match["data"])
            digest = hashlib.sha256(raw).hexdigest()
            stem = opened["id"] if opened else f"image-{digest[:12]}"
            if match["kind"] == "source":
                stem += "-narrow"
            name = f"{stem}.{ENDINGS[match['format']]}"
            if found.get(name, raw) != raw:  # a second image in one figure
                name = f"{stem}-{digest[:12]}.{ENDINGS[match['format']]}"
            found[name] = raw
            lazy = ' loading="lazy" decoding="async"' if match["kind"] == "img" else ""
            tag = match["tag"].replace("<img", f"<img{lazy}", 1)
            return f'{tag}{match["name"]}="{IMAGES}/{name}"'

        pieces.append(IMAGE.sub(moved, part))
    return "".join(pieces), found


def move_images(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put the images of a page beside the book; they are written when it is finished."""
    if app.builder.format != "html":
        return
    single = app.builder.name == "singlehtml"
    root = "" if single else "../" * page.count("/")
    for node in doctree.findall(nodes.raw):
        text = node.astext()
        if ";base64," not in text:
            continue
        text, found = image_files(text)
        text = text.replace(f'="{IMAGES}/', f'="{root}{IMAGES}/')
        if single:  # to be printed, also what was never scrolled to
            text = text.replace(' loading="lazy"', "")
        node[:] = [nodes.Text(text)]
        images_of(app).update(found)


def images_of(app: Sphinx) -> dict[str, bytes]:
    """The images of this build by name."""
    if not hasattr(app, "book_images"):
        app.book_images = {}  # type: ignore[attr-defined]
    return app.book_images  # type: ignore[attr-defined]


def shortened(drawing: bytes) -> bytes:
    """The same drawing in as few characters as may be; the same in gives the same out."""
    options = scour.sanitizeOptions()
    options.digits = 5
    options.strip_ids = options.shorten_ids = options.strip_comments = True
    options.remove_metadata = options.strip_xml_prolog = True
    options.indent_type, options.newlines, options.quiet = "none", False, True
    return str(scour.scourString(drawing.decode("utf-8"), options)).encode("utf-8")


def write_images(folder: Path, cache: Path, images: dict[str, bytes]) -> None:
    """Write the images; drawings shortened, which is done once for each (`cache`)."""
    folder.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    kept = {
        name: cache / f"{hashlib.sha256(raw).hexdigest()}.svg"
        for name, raw in images.items()
        if name.endswith(".svg")
    }
    due = {path: images[name] for name, path in kept.items() if not path.is_file()}
    if len(due) <= FEW:
        for path, raw in due.items():
            path.write_bytes(shortened(raw))
    else:
        with ProcessPoolExecutor(max(1, min(4, cpu_count() or 1))) as pool:
            for path, short in zip(due, pool.map(shortened, due.values()), strict=True):
                path.write_bytes(short)
    for old in set(cache.glob("*.svg")) - set(kept.values()):
        old.unlink()
    for name, raw in images.items():
        (folder / name).write_bytes(kept[name].read_bytes() if name in kept else raw)


def cleared(notebook: dict[str, Any]) -> dict[str, Any]:
    """A notebook that was run as one to be run: no outputs, counts, timings, paths."""
    cells = []
    for cell in notebook["cells"]:
        kept = {**cell, "metadata": {k: v for k, v in cell["metadata"].items() if k in CELL_KEYS}}
        if cell["cell_type"] == "code":
            kept |= {"outputs": [], "execution_count": None}
        cells.append(kept)
    about = {k: v for k, v in notebook["metadata"].items() if k in NOTEBOOK_KEYS}
    return {**notebook, "cells": cells, "metadata": about}


def unnamed(folder: Path) -> Iterator[Path]:
    """The files of `_static` that no page, style sheet or script of the book names."""
    mathjax = folder / "_static" / "mathjax"
    files = [path for path in (folder / "_static").rglob("*") if path.is_file()]
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in folder.rglob("*")
        if path.suffix in TEXTS and path.is_file() and mathjax not in path.parents
    ]
    named = "\n".join(texts)
    for path in files:
        if mathjax in path.parents:
            if not MATHJAX.fullmatch(path.relative_to(folder / "_static").as_posix()):
                yield path
        elif path.suffix == ".map" or path.name not in named:
            yield path
        elif path.suffix == ".ttf" and path.with_suffix(".woff2").is_file():
            yield path  # every browser that the pages work in takes the other


def spared_icons(script: str, named: set[str]) -> str:
    """The script of the theme's icons with those alone that a page or another script names."""

    def kept(match: re.Match[str]) -> str:
        names = {match["quoted"] or match["plain"], *re.findall(r'"([\w-]+)"', match["others"])}
        return match[0] if names & named else ""

    return ICON.sub(kept, script)


def spare_icons(folder: Path) -> None:
    """Rewrite the script of icons, of which the theme brings two thousand, for those in use."""
    icons = folder / ICONS
    if not icons.is_file():
        return
    texts = (path for path in folder.rglob("*") if path.suffix in {".html", ".js"})
    named = {
        name
        for path in texts
        if path != icons
        for name in re.findall(r"\bfa-([a-z0-9-]+)", path.read_text("utf-8", errors="replace"))
    }
    icons.write_text(spared_icons(icons.read_text(encoding="utf-8"), named), encoding="utf-8")


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Write the images, clear the notebooks, and take away what nothing names."""
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    if images := images_of(app):
        write_images(folder / IMAGES, folder.parent / ".drawings", images)
    for path in (folder / "_sources").rglob("*.ipynb"):
        notebook = cleared(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for path in [*unnamed(folder), *folder.glob("tippy_*_cache.json")]:
        path.unlink()
    spare_icons(folder)
    below = sorted((p for p in (folder / "_static").rglob("*") if p.is_dir()), reverse=True)
    for path in below:
        if not any(path.iterdir()):
            path.rmdir()


def spare_mathjax(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Take MathJax from a page without formulas: Sphinx gives it to every page above one with."""
    if FORMULA.search(context.get("body", "")):
        return
    context["script_files"][:] = [
        script
        for script in context["script_files"]
        if str(script.filename)
        not in (app.config.mathjax_path, f"_static/{app.config.mathjax_path}")
        and not str(script.attributes.get("body", "")).startswith("window.MathJax")
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", move_images)
    # Sphinx adds MathJax at 500.
    app.connect("html-page-context", spare_mathjax, priority=510)
    # After everything that copies or writes files.
    app.connect("build-finished", lighten, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
