"""What the package offers to the command line."""

import json
from pathlib import Path

from app.ipu_model import report
from tests.ipu_model.report.fixture import tiny


def test_write_leaves_a_page_and_a_trace(tmp_path: Path) -> None:
    report.write(tiny(), tmp_path / "new" / "report")
    written = {path.name for path in (tmp_path / "new" / "report").iterdir()}
    assert written == {"index.html", "trace.json"}


def test_json_names_the_configuration_it_was_given() -> None:
    assert json.loads(report.as_json_text(tiny(), config="runs/a.yml"))["config"] == "runs/a.yml"
    assert json.loads(report.as_json_text(tiny())) == report.simulation_dict(tiny())
