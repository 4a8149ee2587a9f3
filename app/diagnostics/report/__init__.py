"""A diagnosis as text, JSON, CSV and a picture."""

from app.diagnostics.report.picture import draw
from app.diagnostics.report.tables import as_csv_text, as_json_text, summary
from app.diagnostics.report.writing import FILES, write

__all__ = ["FILES", "as_csv_text", "as_json_text", "draw", "summary", "write"]
