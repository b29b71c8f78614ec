"""Plain HTML of a report: one page without links, tables, and numbers with their intervals."""

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Final

from models.metrics import binomial_interval

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem; border-bottom: 1px solid #bbb }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .8rem; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left } th { border-bottom: 2px solid #888 }
img { max-width: 100%; height: auto } figure { margin: 1rem 0 } figcaption { color: #444; font-size: .92rem }
.headline { font-size: 1.15rem } .warning { border-left: 5px solid #a33; padding: .4rem 1rem; background: #fdf3f2 }
@media print { body { font-size: 11pt; max-width: none; margin: 0 } h2 { break-after: avoid }
  figure, table, .warning { break-inside: avoid } }
"""


def document(title: str, body: str) -> str:
    """Make a whole page; `body` is HTML, `title` is text."""
    title = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def figure(png: bytes, caption: str) -> str:
    """Embed a picture with its caption."""
    said = html.escape(caption)
    image = f'<img alt="{said}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'
    return f"<figure>{image}<figcaption>{said}</figcaption></figure>"


def bullets(texts: Iterable[str]) -> str:
    """Make a list."""
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table of texts; the first column reads from the left."""
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>\n</table>"


def number(value: float | None, form: str = ".3f") -> str:
    """Print a number, or n/a."""
    return "n/a" if value is None else format(value, form).replace("%", " %")


def span(interval: Sequence[float] | None, form: str) -> str:
    """Print an interval."""
    return "n/a" if interval is None else f"{number(interval[0], form)} to {number(interval[1], form)}"


def with_interval(value: float | None, interval: Sequence[float] | None, form: str = ".3f") -> str:
    """Print a number with its interval, where it has one."""
    return number(value, form) if interval is None else f"{number(value, form)} ({span(interval, form)})"


def rate(count: int, n: int) -> str:
    """Print a share as counts, percent and exact 95 % interval."""
    return "n/a" if n == 0 else f"{count} of {n}: {with_interval(count / n, binomial_interval(count, n), '.0%')}"
