"""Chapters as files for machines: a CSV file for each table, a PNG file for each picture, and one
JSON object with everything."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Mapping

from benchmarks.suite.chapters import Chapter, Table, Trend
from benchmarks.suite.charts import LIGHT, png

__all__ = ["write_files"]


def write_files(chapters: Mapping[str, Chapter], out: Path) -> List[Path]:
    """Write them into a folder; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for section, chapter in chapters.items():
        for table in chapter.tables:
            written.append(_write_csv(table, out / f"{section}-{table.key}.csv"))
        for picture in chapter.pictures:
            path = out / f"{section}-{picture.key}.png"
            path.write_bytes(png(picture.draw(LIGHT)))
            written.append(path)
    whole = out / "benchmark.json"
    found = {section: _as_dict(chapter) for section, chapter in chapters.items()}
    whole.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return [*written, whole]


def _write_csv(table: Table, path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([_header(column.key, column.origin) for column in table.columns])
        for row in table.rows:
            writer.writerow([row.get(column.key) for column in table.columns])
    return path


def _header(key: str, origin: object) -> str:
    return f"{key} ({origin})" if origin else key


def _as_dict(chapter: Chapter) -> Dict[str, Any]:
    return {
        "tables": {
            table.key: {
                "origins": {each.key: each.origin for each in table.columns if each.origin},
                "rows": [dict(row) for row in table.rows],
            }
            for table in chapter.tables
        },
        "trends": [_trend(each) for each in chapter.trends],
        "quantities": [asdict(each) for each in chapter.quantities],
    }


def _trend(trend: Trend) -> Dict[str, Any]:
    return {**asdict(trend), "error": trend.error, "holds": trend.holds}
