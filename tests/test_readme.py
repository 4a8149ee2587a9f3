"""What the README and the documentation tell people to type."""

import re
import shlex
from pathlib import Path
from typing import List

import pytest

from app.cli import _parser
from app.config import load_run

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    line.split("#")[0].strip()
    for page in PAGES
    for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if re.match(r"(make|python) ", line)
]


def words(command: str) -> List[str]:
    expanded: List[str] = []
    for word in shlex.split(command):
        matches = sorted(str(path) for path in ROOT.glob(word)) if "*" in word else [word]
        expanded += matches
    return expanded


def test_the_pages_hold_commands() -> None:
    assert {command.split()[0] for command in COMMANDS} == {"make", "python"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m app ")])
def test_every_command_of_the_application_parses(command: str) -> None:
    _parser().parse_args(words(command)[3:])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_every_make_command_names_a_target_and_settings_that_load(command: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    target, *settings = words(command)[1:]
    assert target in targets
    given = dict(setting.split("=", 1) for setting in settings)
    config = ROOT / given.get("CONFIG", "ipu_configs/digits.yml")
    load_run(config, given.get("SET", "").split())


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
