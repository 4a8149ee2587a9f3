"""The page: one file, whole, safe, and with every part in it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest
from hypothesis import HealthCheck, given, settings

from app.ipu_model.pipeline import Slot
from app.ipu_model.report import page
from app.ipu_model.simulation import OpCost, Simulation
from tests.ipu_model.report.fixture import efficientnet, misfitting, tiny
from tests.ipu_model.report.odd import simulations

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;<!--"
VOID = {"meta", "input", "img", "br", "line", "path"}
SECTIONS = ["glance", "tiles", "liveness", "time", "schedule", "operations"]


class Reader(HTMLParser):
    """Elements of a page; complains about one that is closed where it is not open."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: List[Tuple[str, Dict[str, Optional[str]]]] = []
        self.texts: Dict[str, List[str]] = {}
        self._open: List[str] = []
        self.feed(content)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def of(self, tag: str) -> List[Dict[str, Optional[str]]]:
        """Attributes of all elements of this tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def _data(reader: Reader) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads(reader.texts["script"][0])
    return found


@pytest.mark.parametrize("make", [efficientnet, misfitting, tiny])
def test_the_file_is_well_formed_and_has_all_sections(make: Any, tmp_path: Path) -> None:
    path = page.write(make(), tmp_path / "report")
    assert path == tmp_path / "report" / "index.html"
    reader = Reader(path.read_text(encoding="utf-8"))
    assert [attributes["id"] for attributes in reader.of("section")] == SECTIONS
    assert reader.texts["small"].count("simulated") == len(SECTIONS)
    names = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(names) == len(set(names))


def test_nothing_is_loaded_from_anywhere() -> None:
    content = page.html(efficientnet())
    reader = Reader(content)
    for tag, attributes in reader.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"https?:|url\(|@import|\bfetch\(|\bimport\(|XMLHttpRequest", content)


def _hostile(op: OpCost) -> OpCost:
    return replace(op, scope=HOSTILE, label=HOSTILE, kind=HOSTILE, phase=HOSTILE)


def test_text_of_the_program_cannot_become_markup() -> None:
    plain = misfitting()
    assert plain.misfit is not None
    (lever, *_), (term, *terms) = plain.misfit.levers, plain.misfit.terms
    memory = plain.per_ipu[3].memory
    moments = tuple(
        replace(moment, label=HOSTILE, scope=HOSTILE, phase=HOSTILE) for moment in memory.timeline
    )
    memory = replace(memory, timeline=moments, terms=(replace(term, name=HOSTILE), *terms))
    simulation = replace(
        plain,
        name=HOSTILE,
        system=HOSTILE,
        mode=HOSTILE,
        calibration_name=HOSTILE,
        sdk=HOSTILE,
        ops=tuple(_hostile(op) for op in plain.ops),
        per_ipu=(*plain.per_ipu[:3], replace(plain.per_ipu[3], memory=memory)),
        timeline=replace(plain.timeline, slots=(Slot(0, 0, HOSTILE, -1, 0.0, 9.0),)),
        misfit=replace(
            plain.misfit,
            terms=(replace(term, name=HOSTILE), *terms),
            levers=(replace(lever, change=HOSTILE),),
        ),
    )
    reader = Reader(page.html(simulation))
    assert reader.of("img") == []
    assert len(reader.of("script")) == 2
    assert not [1 for _, attributes in reader.elements for name in attributes if name[:2] == "on"]
    assert HOSTILE in reader.texts["h1"]
    assert HOSTILE in _data(reader)["strings"]


def test_the_data_holds_every_operation_and_moment() -> None:
    simulation = efficientnet()
    data = _data(Reader(page.html(simulation)))
    assert len(data["ops"]) == len(simulation.ops)
    cycles = sum(op[6] * sum(op[7:10]) for op in data["ops"])
    expected = sum(op.repeats * op.cost.cycles for op in simulation.ops)
    assert cycles == pytest.approx(expected, rel=1e-3)
    for result, moments, tiles in zip(simulation.per_ipu, data["moments"], data["tiles"]):
        assert len(moments) == len(result.memory.timeline)
        assert max(tiles["peak"]) == max(result.memory.tile_peak_bytes)
        assert len(tiles["peak"]) * tiles["width"] >= len(result.memory.tile_peak_bytes)


def test_every_picture_says_what_it_shows_and_can_be_reached() -> None:
    pictures = [
        attributes
        for _, attributes in Reader(page.html(efficientnet())).elements
        if attributes.get("role") == "img"
    ]
    assert len(pictures) == 2 * 4
    assert all(picture["aria-label"] and picture["tabindex"] == "0" for picture in pictures)


def test_a_long_steady_state_is_cut_out_of_the_schedule() -> None:
    def slot(start: float) -> Slot:
        return Slot(0, 0, "forward", 0, start, start + 100.0)

    timeline = replace(tiny().timeline, slots=(slot(0), slot(100), slot(900_000)))
    assert 'class="break"' in page.html(replace(tiny(), timeline=timeline))
    timeline = replace(tiny().timeline, slots=(slot(0), slot(100), slot(200)))
    assert 'class="break"' not in page.html(replace(tiny(), timeline=timeline))


def test_a_misfit_shows_what_would_help() -> None:
    content = page.html(misfitting())
    assert "Does not fit: IPU 3" in content
    assert "batching.micro_batch 2 -&gt; 1: saves 136 KiB, then it fits" in content


def test_the_page_stays_small() -> None:
    assert len(page.html(efficientnet()).encode()) < 600_000


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(simulations())
def test_any_simulation_has_a_page(simulation: Simulation) -> None:
    reader = Reader(page.html(simulation))
    assert len(_data(reader)["ops"]) == len(simulation.ops)
    assert len(reader.of("script")) == 2
