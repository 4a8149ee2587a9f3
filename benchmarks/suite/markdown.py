"""Tables of a section as Markdown, for pages of the documentation."""

from typing import List

from benchmarks.suite.chapters import Cell, Column, Table

__all__ = ["table_markdown"]


def table_markdown(table: Table) -> str:
    """A heading, the note and the rows; a column's unit and origin stand in its title."""
    lines = [f"### {table.title}", ""]
    if table.note:
        lines += [table.note, ""]
    lines.append(_line([_title(each) for each in table.columns]))
    lines.append(_line(["---:" if each.origin or each.form else "---" for each in table.columns]))
    for row in table.rows:
        lines.append(_line([_cell(row.get(each.key), each.form) for each in table.columns]))
    return "\n".join(lines)


def _line(cells: List[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _title(column: Column) -> str:
    unit = f", {column.unit}" if column.unit else ""
    return f"{column.title}{unit}{f' (*{column.origin}*)' if column.origin else ''}"


def _cell(value: Cell, form: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value.replace("|", "\\|")
    return format(value, form or ",.6g")
