"""A Sphinx extension: where the book is published, told once, and what it shows when it is shared.

The repository's address in `_config.yml` says where GitHub Pages lends the book, unless
`html_baseurl` names another place. From it come the canonical link of every page, the sitemap
(`sphinx_sitemap`), and the preview that messengers show (`sphinxext.opengraph`), for which a card
is drawn here.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config

CARD = "_static/social.png"
SIZE = (12.0, 6.3)  # inches at 100 dots each: the size that messengers ask for
GROUND, INK, ACCENT = "#ffffff", "#22272e", "#1f5673"


def pages_address(repository: str) -> str:
    """Where GitHub Pages lends a repository's book, with a slash at the end; "" for other hosts."""
    url = urlsplit(repository)
    parts = url.path.strip("/").split("/")
    if url.netloc != "github.com" or len(parts) != 2:
        return ""
    owner, name = parts[0].lower(), parts[1]
    own = name.lower() == f"{owner}.github.io"
    return f"https://{owner}.github.io/" + ("" if own else f"{name}/")


def settle(app: Sphinx, config: Config) -> None:
    """Fill in what depends on the address, before anything reads it."""
    base = config.html_baseurl or pages_address(config.html_theme_options.get("repository_url", ""))
    if base:
        config.html_baseurl = config.ogp_site_url = base
        config.ogp_image = base + CARD
        config.ogp_site_name = config.ogp_image_alt = config.html_title


def draw_card(path: Path, title: str, author: str) -> None:
    """Draw the card: the book's title, and who made it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    name, _, rest = title.partition(": ")
    figure = Figure(figsize=SIZE, facecolor=GROUND)
    FigureCanvasAgg(figure)
    figure.add_artist(Rectangle((0, 0), 0.02, 1, color=ACCENT))
    lines = textwrap.fill(name, 26, break_on_hyphens=False)
    write: dict[str, Any] = {"color": INK, "ha": "left", "va": "top", "linespacing": 1.25}
    figure.text(0.09, 0.84, lines, fontsize=42, fontweight="bold", **write)
    figure.text(0.09, 0.27, rest[:1].upper() + rest[1:], fontsize=26, **{**write, "color": ACCENT})
    figure.text(0.09, 0.15, author, fontsize=20, **write)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Leave the card with the pages that name it."""
    if exception is None and app.builder.name == "html" and app.config.html_baseurl:
        draw_card(Path(app.outdir, CARD), app.config.html_title, app.config.author)


def setup(app: Sphinx) -> dict[str, bool]:
    # sphinxext.opengraph and the theme read the configuration later.
    app.connect("config-inited", settle, priority=100)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
