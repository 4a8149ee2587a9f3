"""Figures in README and docs: each is one of record, and says what the record says.

`figures_in_docs.yml` lists, page by page, the sentences that quote figures of
`benchmarks/figures.json`, and the phrases whose numbers are settings, not results. What stands in a
generated block is the business of the program that writes it.
"""

import operator
import re
from pathlib import Path
from typing import Any, Dict, List, Match

import pytest
import yaml

from benchmarks.suite import gate

ROOT = Path(__file__).resolve().parents[1]
_DOCS = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
PAGES = ("README.md", "benchmarks/README.md", *_DOCS)
QUOTED: Dict[str, Dict[str, List[str]]] = yaml.safe_load(
    Path(__file__).with_name("figures_in_docs.yml").read_text(encoding="utf-8")
)

_GENERATED = re.compile(
    r"<!-- (?P<mark>[\w-]+) -->.*?<!-- /(?P=mark) -->|"
    r"<!-- reproduce: generated from here .*?-->.*?<!-- reproduce: generated to here -->|"
    r"<!-- (?P<block>[\w-]+): begin -->.*?<!-- (?P=block): end -->",
    re.DOTALL,
)
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_NUMBER = r"[-+−]?\d[\d,.]*"
_RESULT = re.compile(
    rf"(?<![\w.×]){_NUMBER}(?:\s*(?:to|or|–|±|and|of)\s*{_NUMBER})?\s*"
    r"(?:%|per cent|points?\b|(?:k |thousand )?(?:images|samples)/s|ms\b|µs\b|s\b|minutes?\b|"
    r"seconds?\b|KiB\b|MiB\b|times\b)"
)
"""A number with a unit that results have."""
_FIGURE = re.compile(r"\{([^{}:]+):([^{}]*)\}")
"""``{name:format}``, or names with `` + ``, `` - ``, `` * ``, `` / `` between them, done from the
left; numbers may stand for names: ``{a/x / b/x * 100:.0f}``."""


def _prose(page: str) -> str:
    """The page without generated blocks and code, its white space as single spaces."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return " ".join(_CODE.sub(" ", _GENERATED.sub(" ", text)).split())


def _rendered(template: str, figures: Dict[str, float]) -> str:
    def one(match: Match[str]) -> str:
        first, *rest = match[1].split()
        value = _value(first, figures)
        for sign, name in zip(rest[::2], rest[1::2]):
            value = _DO[sign](value, _value(name, figures))
        return format(value, match[2])

    return " ".join(_FIGURE.sub(one, template).split())


_DO = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def _value(name: str, figures: Dict[str, float]) -> float:
    return figures[name] if name in figures else float(name)


@pytest.fixture(scope="module")
def figures() -> Dict[str, float]:
    return {name: each.value for name, each in gate.read_expected().items()}


def _claims() -> List[Any]:
    return [
        pytest.param(page, claim, id=f"{page}: {claim[:40]}")
        for page, listed in QUOTED.items()
        for claim in listed.get("figures", [])
    ]


@pytest.mark.parametrize(("page", "claim"), _claims())
def test_a_quoted_figure_is_the_one_of_record(
    page: str, claim: str, figures: Dict[str, float]
) -> None:
    assert _FIGURE.search(claim), "a claim without a figure belongs under `settings`"
    assert _rendered(claim, figures) in _prose(page)


@pytest.mark.parametrize("page", PAGES)
def test_no_figure_stands_in_prose_that_is_not_of_record(
    page: str, figures: Dict[str, float]
) -> None:
    text = _prose(page)
    listed = QUOTED.get(page, {})
    for claim in listed.get("figures", []):
        text = text.replace(_rendered(claim, figures), " ")
    for phrase in listed.get("settings", []):
        assert " ".join(phrase.split()) in text, f"{phrase!r} is on the list and not on the page"
        text = text.replace(" ".join(phrase.split()), " ")
    left = [text[max(0, m.start() - 50) : m.end() + 20] for m in _RESULT.finditer(text)]
    assert not left, f"{page}: of record, or a setting? {left}"


def test_pages_on_the_list_are_there() -> None:
    assert set(QUOTED) <= set(PAGES)


@pytest.mark.parametrize(
    "text", ["it takes 12 % off", "3.3 % and", "20 to 30 ms", "1.9 times as fast", "7,000 images/s"]
)
def test_the_search_finds_figures(text: str) -> None:
    assert _RESULT.search(text)


@pytest.mark.parametrize("text", ["batch of 64", "B0 at 224 px", "5×5 kernels", "SDK 3.3 says"])
def test_the_search_leaves_settings_alone(text: str) -> None:
    assert not _RESULT.search(text)
