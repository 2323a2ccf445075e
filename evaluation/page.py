"""A page in one file: HTML that opens from a disk, loads nothing, runs nothing, and is light or dark as one likes.

Every function takes plain text and returns HTML; what is HTML already is called so.
"""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from torch import Tensor

from evaluation import plots
from evaluation.grids import Picture

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy: the browser itself refuses to fetch anything."""

# Okabe and Ito's colours; blue and purple are lighter on the dark page, where they would not be seen
LIGHT = {
    "ground": "#ffffff",
    "panel": "#f4f5f7",
    "ink": "#1a1d21",
    "soft": "#565d66",
    "rule": "#dfe2e6",
    "link": "#0059a3",
    **dict(zip((f"series-{i}" for i in range(plots.COLOURS)),
               ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1a1d21"), strict=True)),
}  # fmt: skip
DARK = {
    "ground": "#15181c",
    "panel": "#1f2329",
    "ink": "#e8eaed",
    "soft": "#a9b0b9",
    "rule": "#343a42",
    "link": "#7cc0ff",
    **dict(zip((f"series-{i}" for i in range(plots.COLOURS)),
               ("#2f93d1", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#e8eaed"), strict=True)),
}  # fmt: skip

CSS = """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.2rem 3rem; max-width: 1360px; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.8rem 0; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 0.6rem; padding-top: 0.8rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0.4rem; }
p, li { max-width: 46rem; }
section > ul > li { margin: 0.3rem 0; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; list-style: none; padding: 0; }
.scroll { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; overflow-wrap: normal; }
caption { text-align: left; color: var(--soft); padding: 0.3rem 0; }
caption span { display: block; position: sticky; left: 0; max-width: min(46rem, calc(100vw - 3rem)); }
th, td { padding: 0.25rem 0.6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
thead th { background: var(--panel); vertical-align: bottom; white-space: normal; }
th[scope=row], .text { text-align: left; }
th[scope=row] { font-weight: 600; white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
td.text { white-space: normal; min-width: 8rem; }
figure { margin: 0.6rem 0; min-width: 0; }
figcaption { color: var(--soft); font-size: 0.9rem; margin-top: 0.3rem; }
.side { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 0.6rem 1.6rem; }
.flow { display: flex; flex-wrap: wrap; gap: 0.6rem 2rem; }
img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; }
summary { margin: 0.8rem 0; cursor: pointer; color: var(--link); }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page.

    Args:
        title: its heading.
        lead: what it is, in a sentence or two.
        sections: (heading, HTML) of each.
    """
    themes = (f"{{ {' '.join(f'--{name}: {value};' for name, value in theme.items())} }}" for theme in (LIGHT, DARK))
    light, dark = (f":root {theme}" for theme in themes)
    style = f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n{CSS}{plots.CSS}"
    links = "".join(f'<li><a href="#part-{i}">{escape(name)}</a></li>' for i, (name, _) in enumerate(sections))
    body = "\n".join(
        f'<section><h2 id="part-{i}">{escape(name)}</h2>\n{html}\n</section>' for i, (name, html) in enumerate(sections)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{paragraph(lead)}
<nav aria-label="Contents"><ul>{links}</ul></nav>
<main>
{body}
</main>
</body>
</html>
"""


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def bullets(items: Sequence[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def subsection(heading: str, html: str) -> str:
    """A part of a section."""
    return f"<h3>{escape(heading)}</h3>\n{html}"


def folded(summary: str, html: str) -> str:
    """What is shown when its summary is chosen."""
    return f"<details><summary>{escape(summary)}</summary>\n{html}\n</details>"


def side_by_side(*html: str) -> str:
    """Parts of equal width beside each other, below each other where the page is narrow."""
    return f'<div class="side">{"".join(html)}</div>'


def flow(*html: str) -> str:
    """Parts of their own width beside each other, as many as have room."""
    return f'<div class="flow">{"".join(html)}</div>'


def figure(html: str, caption: str) -> str:
    """A picture or a plot with words below it."""
    return f"<figure>{html}<figcaption>{escape(caption)}</figcaption></figure>"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = ()) -> str:
    """A table in a box that scrolls sideways by itself, so that the page never does.

    Args:
        caption: what it holds.
        head: the names of its columns; the first column names the rows.
        rows: cells.
        text: columns of words, which start at the left as the first does; the others are numbers.
    """
    side = ['class="text"' if i == 0 or i in text else "" for i in range(len(head))]
    heads = "".join(f'<th scope="col" {side[i]}>{_breakable(name)}</th>' for i, name in enumerate(head))
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td {side[i]}>{escape(value)}</td>" for i, value in enumerate(others, start=1))
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _breakable(name: str) -> str:
    """A name that may be broken before its underscores."""
    return escape(name).replace("_", "<wbr>_")


def picture(image: Picture, alt: str, scale: int = 1) -> str:
    """A picture inside the page.

    Args:
        image: (H, W, 3) or, with opacity, (H, W, 4) uint8.
        alt: what it shows, for those who do not see it.
        scale: how much larger it is shown, every pixel a sharp square.
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    height, width = image.shape[0] * scale, image.shape[1] * scale
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escape(alt)}">'


def mosaic(images: Tensor, columns: int) -> Picture:
    """Images in rows, a pixel of nothing between them, so that the page's ground shows.

    Args:
        images: (N, C, H, W) uint8, C = 1 or 3.
        columns: images per row.

    Returns:
        (H', W', 4) uint8; the last channel is opacity.
    """
    columns = min(columns, len(images))
    opaque = torch.cat([images.expand(-1, 3, -1, -1), torch.full_like(images[:, :1], 255)], dim=1)
    filled = torch.cat([opaque, torch.zeros_like(opaque[:1]).expand(-len(images) % columns, -1, -1, -1)])
    spaced = torch.nn.functional.pad(filled, (0, 1, 0, 1))
    _, _, height, width = spaced.shape
    grid = spaced.reshape(-1, columns, 4, height, width).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return np.ascontiguousarray(grid[:-1, :-1].numpy())
