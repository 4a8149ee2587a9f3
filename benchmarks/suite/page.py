"""Chapters as one HTML page that opens without a network, in light and dark, wide and narrow."""

import re
from html import escape
from pathlib import Path
from typing import Iterable, List, Mapping, Sequence

from benchmarks.suite.chapters import (
    TREND_TOLERANCE,
    Cell,
    Chapter,
    Column,
    Picture,
    Table,
    Trend,
)
from benchmarks.suite.charts import DARK, LIGHT, svg

__all__ = ["html"]

_STYLE = Path(__file__).with_name("page.css")
_MANY_ROWS = 12


def html(chapters: Mapping[str, Chapter], titles: Mapping[str, str], made: str) -> str:
    """The page; ``made`` says on what and how long."""
    sections = "".join(
        f'<section id="{escape(key)}"><h2>{escape(titles[key])}</h2>{_chapter(key, chapter)}'
        "</section>"
        for key, chapter in chapters.items()
    )
    links = "".join(f'<a href="#{escape(key)}">{escape(titles[key])}</a>' for key in chapters)
    style = _STYLE.read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Benchmarks</title><style>{style}</style></head><body><header>"
        "<h1>G16-EfficientNet on IPUs: benchmarks</h1>"
        f"<p>{escape(made)}</p><p>{_ORIGINS}</p></header>"
        f"<nav>{links}</nav><main>{_trends(chapters.values())}{sections}</main></body></html>\n"
    )


_ORIGINS = (
    "Each figure says where it comes from: "
    '<span class="origin measured">measured</span> here, on this machine’s CPU; '
    '<span class="origin simulated">simulated</span> by the IPU Model, on no hardware; '
    '<span class="origin published">published</span> by others; '
    '<span class="origin counted">counted</span> from shapes; '
    '<span class="origin derived">derived</span> from such figures as the text says.'
)


def _trends(chapters: Iterable[Chapter]) -> str:
    trends = [trend for chapter in chapters for trend in chapter.trends]
    if not trends:
        return ""
    holding = sum(each.holds for each in trends)
    rows = "".join(_trend(each) for each in trends)
    return (
        '<section id="trends"><h2>Published trends</h2>'
        f"<p><b>{holding} of {len(trends)}</b> have the published direction and its size within "
        f"{TREND_TOLERANCE:.0%}.</p>"
        '<div class="scroll"><table><thead><tr><th>ratio</th>'
        f'<th class="number">{_origin("published")}</th>'
        f'<th class="number">{_origin("simulated")}</th><th class="number">difference</th>'
        "<th>holds</th><th>made of</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _trend(trend: Trend) -> str:
    if trend.holds:
        verdict = "yes"
    elif trend.same_direction:
        verdict = "direction only"
    else:
        verdict = "no"
    return (
        f'<tr class="{"good" if trend.holds else "bad"}"><td>{escape(trend.name)}</td>'
        f'<td class="number">{trend.published:.2f}</td>'
        f'<td class="number">{trend.simulated:.2f}</td>'
        f'<td class="number">{100 * trend.error:+.0f} %</td><td class="verdict">{verdict}</td>'
        f"<td>{escape(trend.source)}</td></tr>"
    )


def _chapter(key: str, chapter: Chapter) -> str:
    paragraphs = "".join(f"<p>{_text(each)}</p>" for each in chapter.lead.split("\n\n") if each)
    pictures = "".join(_picture(key, each) for each in chapter.pictures)
    tables = "".join(_table(each) for each in chapter.tables)
    return f'{paragraphs}<div class="pictures">{pictures}</div>{tables}'


def _text(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(text))


def _picture(section: str, picture: Picture) -> str:
    drawn = "".join(
        f'<div class="{theme.name}" role="img" aria-label="{escape(picture.title)}">'
        f"{_own_ids(svg(picture.draw(theme)), f'{section}-{picture.key}-{theme.name}')}</div>"
        for theme in (LIGHT, DARK)
    )
    return (
        f'<figure><div class="drawn">{drawn}</div><figcaption><b>{escape(picture.title)}.</b> '
        f"{_text(picture.reading)}</figcaption></figure>"
    )


def _own_ids(drawing: str, prefix: str) -> str:
    """The same drawing with ids that no other drawing of the page has."""
    drawing = re.sub(r'\bid="', f'id="{prefix}-', drawing)
    drawing = re.sub(r'(xlink:href="|href=")#', rf"\1#{prefix}-", drawing)
    return drawing.replace("url(#", f"url(#{prefix}-")


def _table(table: Table) -> str:
    head = "".join(_heading(each) for each in table.columns)
    body = "".join(_row(table.columns, row) for row in table.rows)
    note = f"<p>{_text(table.note)}</p>" if table.note else ""
    inside = (
        f'{note}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    title = f"{escape(table.title)} <small>{len(table.rows)} rows</small>"
    opened = " open" if len(table.rows) <= _MANY_ROWS else ""
    return f"<details{opened}><summary>{title}</summary>{inside}</details>"


def _heading(column: Column) -> str:
    unit = f" <small>{escape(column.unit)}</small>" if column.unit else ""
    origin = f"<br>{_origin(column.origin)}" if column.origin else ""
    return f'<th class="{_kind(column)}">{escape(column.title)}{unit}{origin}</th>'


def _origin(origin: str) -> str:
    return f'<span class="origin {origin}">{origin}</span>'


def _kind(column: Column) -> str:
    return "number" if column.form or column.origin else "text"


def _row(columns: Sequence[Column], row: Mapping[str, Cell]) -> str:
    cells: List[str] = []
    for column in columns:
        cells.append(f'<td class="{_kind(column)}">{_cell(row.get(column.key), column.form)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: Cell, form: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return escape(value)
    return format(value, form or ",.6g")
