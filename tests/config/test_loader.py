"""The strict loader: what it accepts, and the whole sentence with which it refuses the rest."""

import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, Literal, Optional, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import Batching, Data, Model, Norm, Optimizer, Pipeline, Run, System, Training
from app.config.loader import dump, load_run, load_section, load_system, load_text
from app.config.schema import FieldError
from app.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    path for path in (ROOT / "ipu_configs").rglob("*.yml") if path.parent.name != "systems"
)
SYSTEMS = sorted((ROOT / "ipu_configs" / "systems").glob("*.yml"))

RUN = """\
name: small
system: ipu-m2000
model:
  name: efficientnet_b0
data:
  name: digits
  image_size: 8
batching:
  micro_batch: 4
training:
  epochs: 1
"""

SYSTEM = """\
name: Desk
ipus: 2
chip: {name: mk1, tiles: 1216, tile_memory_bytes: 262144, clock_hz: 1.6e9, source: a test}
"""


@dataclass(frozen=True)
class Part:
    size: int
    """One whole number."""


@dataclass(frozen=True)
class Probe:
    """One field for every annotation that the loader knows."""

    whole: int = 1
    real: float = 0.5
    flag: bool = False
    text: str = ""
    maybe: Optional[float] = 1.0
    precision: Literal["16.16", "32.32"] = "16.16"
    stride: Literal[1, 2] = 1
    sizes: Tuple[int, ...] = (7,)
    part: Part = field(default_factory=lambda: Part(1))

    def __post_init__(self) -> None:
        if self.whole < 0:
            raise FieldError("whole", f"must not be negative, got {self.whole}")
        if self.part.size < 0:
            raise FieldError("part.size", f"must not be negative, got {self.part.size}")


@pytest.fixture(autouse=True)
def _work_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(files: Dict[str, str]) -> None:
    for name, text in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def probe(text: str, *flags: str) -> Probe:
    write({"probe.yml": text})
    return load_section(Probe, "probe.yml", flags)


def refusal(*flags: str, **files: str) -> str:
    """The sentence with which ``run.yml`` is refused; ``base=...`` writes base.yml beside it."""
    write({f"{name}.yml": text for name, text in files.items()})
    with pytest.raises(ConfigError) as refused:
        load_run("run.yml", flags)
    return str(refused.value)


# What is written, and what it is.


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        ("whole: 3", "whole", 3),
        ("real: -3e+2", "real", -300.0),
        ("real: 1e-3", "real", 0.001),
        ("real: 1.0e-3", "real", 0.001),
        ("real: .5", "real", 0.5),
        ("real: 3", "real", 3.0),
        ("flag: true", "flag", True),
        ("flag: false", "flag", False),
        ("text: on", "text", "on"),
        ("text: off", "text", "off"),
        ("text: yes", "text", "yes"),
        ("text: no", "text", "no"),
        ("text: 1:30", "text", "1:30"),
        ("text: 0x10", "text", "0x10"),
        ("text: 2024-01-01", "text", "2024-01-01"),
        ("text: '1e-3'", "text", "1e-3"),
        ("text: '010'", "text", "010"),
        ("text: 'null'", "text", "null"),
        ("text: |\n  two\n  lines", "text", "two\nlines"),
        ("maybe: null", "maybe", None),
        ("maybe: ~", "maybe", None),
        ("maybe: 2", "maybe", 2.0),
        ("precision: '16.16'", "precision", "16.16"),
        ("stride: 2", "stride", 2),
        ("sizes: [1, 2]", "sizes", (1, 2)),
        ("sizes:\n- 1", "sizes", (1,)),
        ("sizes: []", "sizes", ()),
        ("part: {size: 3}", "part", Part(3)),
    ],
)
def test_a_scalar_is_what_the_field_and_its_spelling_say(
    written: str, name: str, value: object
) -> None:
    found = getattr(probe(written), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("whole: four", "'whole' must be int, got 'four' (str); give a whole number"),
        ("whole: '32'", "'whole' must be int, got '32' (str); remove the quotes"),
        ("whole: 4.0", "'whole' must be int, got 4.0 (float); give a whole number"),
        ("whole: 1e3", "'whole' must be int, got 1e3 (float); give a whole number"),
        ("whole: true", "'whole' must be int, got true (bool); give a whole number"),
        ("whole: 0x10", "'whole' must be int, got '0x10' (str); give a whole number"),
        ("whole: 1_000", "'whole' must be int, got '1_000' (str); give a whole number"),
        ("whole: 1:30", "'whole' must be int, got '1:30' (str); give a whole number"),
        ("whole: 2024-01-01", "'whole' must be int, got '2024-01-01' (str); give a whole number"),
        ("whole: 010", "010 has a leading zero, octal to some; drop the zero or quote it"),
        ("whole: null", "'whole' must be int, got null; give a whole number"),
        ("whole:", "'whole' must be int, got nothing; give a whole number"),
        ("whole: [1]", "'whole' must be int, got a list; give a whole number"),
        ("whole: {a: 1}", "'whole' must be int, got a section; give a whole number"),
        ("real: 00.5", "00.5 has a leading zero, octal to some; drop the zero or quote it"),
        ("real: false", "'real' must be float, got false (bool); give a finite number"),
        ("real: 1:30", "'real' must be float, got '1:30' (str); give a finite number"),
        ("real: .nan", "'real' must be float, got .nan (float); give a finite number"),
        ("real: -.inf", "'real' must be float, got -.inf (float); give a finite number"),
        ("real: 1e999", "'real' must be float, got 1e999 (float); give a finite number"),
        ("real: '1e-3'", "'real' must be float, got '1e-3' (str); remove the quotes"),
        ("flag: on", "'flag' must be bool, got 'on' (str); write true or false"),
        ("flag: True", "'flag' must be bool, got 'True' (str); write true or false"),
        ("flag: 1", "'flag' must be bool, got 1 (int); write true or false"),
        ("flag: 'true'", "'flag' must be bool, got 'true' (str); remove the quotes"),
        ("text: 16.16", "'text' must be str, got 16.16 (float); quote it"),
        ("text: true", "'text' must be str, got true (bool); quote it"),
        ("text: 010", "010 has a leading zero, octal to some; drop the zero or quote it"),
        ("text: ~", "'text' must be str, got ~; give a text"),
        ("maybe:", "'maybe' must be float, got nothing; give a finite number"),
        ("precision: 16.16", "'precision' must be str, got 16.16 (float); quote it"),
        ("precision: half", "'precision' cannot be 'half' (str); use one of 16.16, 32.32"),
        ("precision: '16.1'", "'precision' cannot be '16.1' (str); did you mean '16.16'?"),
        ("precision: [a]", "'precision' cannot be a list; use one of 16.16, 32.32"),
        ("stride: true", "'stride' cannot be true (bool); use one of 1, 2"),
        ("stride: 1.0", "'stride' cannot be 1.0 (float); use one of 1, 2"),
        ("stride: '1'", "'stride' cannot be '1' (str); use one of 1, 2"),
        ("sizes: 3", "'sizes' must be a list, got 3 (int); write it in brackets"),
        ("sizes: [1, b]", "'sizes[1]' must be int, got 'b' (str); give a whole number"),
        (
            "part:",
            "'part' must be a section, got nothing; write its keys below it, indented, or leave "
            "it out",
        ),
        (
            "part: 3",
            "'part' must be a section, got 3 (int); write its keys below it, indented, or leave "
            "it out",
        ),
        ("part: {}", "section 'part' lacks the key 'size'; add it"),
        ("whole: -1", "'whole' must not be negative, got -1"),
        (
            "yes: 1",
            "unknown key 'yes'; use one of whole, real, flag, text, maybe, precision, "
            "stride, sizes, part",
        ),
        ("part: {sizes: 1}", "unknown key 'part.sizes'; did you mean 'part.size'?"),
        (
            "whole: 1\nwhole: 1",
            "duplicate key 'whole', found before at probe.yml:2; remove one of them",
        ),
        (
            "part: {size: 1,\n size: 1}",
            "duplicate key 'size', found before at probe.yml:2; remove one of them",
        ),
        ("[a]: 1", "a key must be a word, got a collection; write key: value"),
        ("<<: {whole: 2}", "merge keys are not read, found '<<'; share a file through extends:"),
        (
            "whole: &a 2",
            "anchors and aliases are not read, found 'a'; write the values out, or share a file "
            "through extends:",
        ),
        (
            "whole: *a",
            "anchors and aliases are not read, found 'a'; write the values out, or share a file "
            "through extends:",
        ),
        (
            "whole: !!int '3'",
            "tags are not read, found 'tag:yaml.org,2002:int'; write a plain value, or share "
            "a file through extends:",
        ),
        (
            "part: !Part {size: 3}",
            "tags are not read, found '!Part'; write a plain value, "
            "or share a file through extends:",
        ),
        ("whole: 1\n---\nwhole: 1", "a second document begins; keep one document per file"),
        (
            "whole: 1\n\treal: 2",
            "not valid YAML, found character '\\t' that cannot start any token; "
            "correct this line or those above it",
        ),
        (
            "whole: 1\ntext: \a",
            "not valid YAML, special characters are not allowed; "
            "correct this line or those above it",
        ),
        ("- whole", "must hold keys and values, got a list; write 'key: value'"),
        ("whole", "must hold keys and values, got a value; write 'key: value'"),
    ],
)
def test_bad_input_is_refused_on_its_line(written: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        probe(f"# a comment\n{written}\n")
    line = 2 + written.count("\n")  # the fault is on the last line
    assert str(refused.value) == f"probe.yml:{line}: {message}"


def test_an_empty_file_is_refused() -> None:
    message = "run.yml: must hold keys and values, got nothing; write 'key: value'"
    assert refusal(run="# nothing\n") == message


def test_a_field_error_of_an_outer_section_names_the_inner_line() -> None:
    with pytest.raises(ConfigError) as refused:
        probe("whole: 1\npart:\n  size: -1\n")
    assert str(refused.value) == "probe.yml:3: 'part.size' must not be negative, got -1"


def test_an_annotation_without_a_rule_is_our_bug() -> None:
    write({"probe.yml": "table: {}\n"})
    with pytest.raises(TypeError, match="no rule for"):
        load_section(Unsupported, "probe.yml")


@dataclass(frozen=True)
class Unsupported:
    table: Dict[str, int]


# Runs.


@pytest.mark.parametrize(
    ("written", "instead", "message"),
    [
        (
            "micro_batch",
            "micro_bach",
            "run.yml:9: unknown key 'batching.micro_bach'; did you mean 'batching.micro_batch'?",
        ),
        (
            "image_size: 8",
            "zoom: 8",
            "run.yml:7: unknown key 'data.zoom'; use one of name, image_size, path, download, "
            "mean, std, test_crop, train_images, num_classes, num_images, workers, loader, "
            "prefetch, worker_batch",
        ),
        (
            "  image_size: 8\n",
            "",
            "run.yml:5: section 'data' lacks the key 'image_size'; add it",
        ),
        ("name: small\n", "", "run.yml:1: the file lacks the key 'name'; add it"),
        (
            "efficientnet_b0",
            "efficientnet_b9x",
            "run.yml:4: 'model.name' cannot be 'efficientnet_b9x' (str); "
            "did you mean 'efficientnet_b7'?",
        ),
        (
            "micro_batch: 4",
            "micro_batch: 0",
            "run.yml:9: 'batching.micro_batch' must be at least 1, got 0",
        ),
        (
            "micro_batch: 4",
            "micro_batch: 4\n  replicas: 8",
            "run.yml:10: 'batching.replicas' must fit the system: stages x replicas = 1 x 8 = 8 "
            "IPUs, IPU-M2000 has 4; use fewer replicas or a larger system",
        ),
        (
            "training:",
            "pipeline: {splits: [blocks.1]}\ntraining:",
            "run.yml:8: 'batching.gradient_accumulation' must be at least 3 for 2 pipeline stages, "
            "got 1; raise it or use fewer stages",
        ),
        (
            "ipu-m2000",
            "ipu-m20000",
            "run.yml:2: 'system' names no file in systems, got 'ipu-m20000'; "
            "did you mean 'ipu-m2000'? (or give a path that ends in .yml)",
        ),
        (
            "ipu-m2000",
            "desk.yml",
            "run.yml:2: 'desk.yml' not found; check the path",
        ),
        (
            "ipu-m2000",
            "4",
            "run.yml:2: 'system' must be a section, got 4 (int); "
            "write its keys below it, indented, or leave it out",
        ),
    ],
)
def test_a_run_that_cannot_be_used_is_refused(written: str, instead: str, message: str) -> None:
    assert refusal(run=RUN.replace(written, instead)) == message


def test_a_run_holds_what_is_written_and_defaults_elsewhere() -> None:
    write({"run.yml": RUN})
    assert load_run("run.yml") == Run(
        name="small",
        system=load_system(ROOT / "ipu_configs/systems/ipu-m2000.yml"),
        model=Model("efficientnet_b0"),
        data=Data("digits", 8),
        batching=Batching(4),
        training=Training(1),
    )


def test_a_file_that_is_missing_or_unreadable_is_refused() -> None:
    assert refusal() == "run.yml: not found; check the path"
    Path("run.yml").write_bytes(b"name: \xff\n")
    assert refusal() == "run.yml: is not UTF-8 text; save it as UTF-8"
    Path("run.yml").unlink()
    Path("run.yml").mkdir()
    assert refusal() == "run.yml: cannot be read, Is a directory; check the path"


# Sections given by the name of a file.


@pytest.mark.parametrize(
    ("folder_of_system", "reference"),
    [
        ("ipu_configs/paper/systems", "desk"),
        ("ipu_configs/systems", "desk"),
        ("ipu_configs/elsewhere", "../elsewhere/desk.yml"),
    ],
)
def test_a_system_is_found_beside_the_file_above_it_or_by_path(
    folder_of_system: str, reference: str
) -> None:
    write(
        {
            "ipu_configs/paper/run.yml": RUN.replace("ipu-m2000", reference),
            f"{folder_of_system}/desk.yml": SYSTEM,
        }
    )
    assert load_run("ipu_configs/paper/run.yml").system.name == "Desk"


def test_the_nearest_system_of_a_name_wins() -> None:
    write({"run.yml": RUN, "systems/ipu-m2000.yml": SYSTEM})
    assert load_run("run.yml").system.name == "Desk"


def test_a_system_above_ipu_configs_is_not_searched() -> None:
    write({"ipu_configs/run.yml": RUN, "systems/ipu-m2000.yml": SYSTEM})
    assert load_run("ipu_configs/run.yml").system.name == "IPU-M2000"


def test_an_unknown_system_without_a_similar_name_lists_all() -> None:
    names = ", ".join(path.stem for path in SYSTEMS)
    assert refusal(run=RUN.replace("ipu-m2000", "desktop")) == (
        "run.yml:2: 'system' names no file in systems, got 'desktop'; "
        f"use one of {names} (or give a path that ends in .yml)"
    )


def test_a_fault_in_a_system_file_names_that_file() -> None:
    files = {"run": RUN.replace("ipu-m2000", "desk.yml"), "desk": SYSTEM.replace("2\n", "3\n")}
    assert refusal(**files) == "desk.yml:2: 'system.ipus' must be a power of two, got 3"


def test_a_system_may_be_written_out() -> None:
    inline = "system:\n" + "".join(f"  {line}\n" for line in SYSTEM.splitlines())
    write({"run.yml": RUN.replace("system: ipu-m2000\n", inline), "desk.yml": SYSTEM})
    assert load_run("run.yml").system == load_system("desk.yml")


# extends


def test_extends_merges_mappings_and_replaces_lists() -> None:
    write(
        {
            "base.yml": "whole: 1\nsizes: [1, 2, 3]\npart: {size: 1}\nreal: 2\n",
            "probe.yml": "extends: base.yml\nsizes: [4]\npart: {}\nreal: 3\n",
        }
    )
    assert load_section(Probe, "probe.yml") == Probe(1, 3.0, sizes=(4,), part=Part(1))


def test_extends_is_relative_to_the_file_in_which_it_stands() -> None:
    write(
        {
            "a/root.yml": RUN,
            "a/base.yml": "extends: root.yml\nseed: 3\n",
            "b/run.yml": "extends: ../a/base.yml\nname: derived\n",
        }
    )
    run = load_run("b/run.yml")
    assert (run.name, run.seed, run.batching) == ("derived", 3, Batching(4))


def test_a_system_reference_is_replaced_and_not_merged() -> None:
    write({"base.yml": RUN, "run.yml": "extends: base.yml\nsystem: ipu-pod16\n"})
    assert load_run("run.yml").system.ipus == 16


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"run": "extends: base.yml\nname: x\n", "base": RUN.replace("epochs", "epoch")},
            "base.yml:11: unknown key 'training.epoch'; did you mean 'training.epochs'?",
        ),
        (
            {"run": "extends: base.yml\ntraining: {epochs: 0}\n", "base": RUN},
            "run.yml:2: 'training.epochs' must be at least 1, got 0",
        ),
        (
            {"run": "name: x\nextends: nowhere.yml\n"},
            "run.yml:2: 'nowhere.yml' not found; check the path",
        ),
        (
            {"run": "extends: [base.yml]\n"},
            "run.yml:1: 'extends' must be one path; write extends: base.yml",
        ),
        (
            {"run": "extends:\n"},
            "run.yml:1: 'extends' must be one path; write extends: base.yml",
        ),
        (
            {"run": "extends: run.yml\n"},
            "run.yml:1: 'extends' runs in a circle, run.yml -> run.yml; remove one of them",
        ),
        (
            {"run": "extends: base.yml\n", "base": "extends: ./run.yml\n"},
            "base.yml:1: 'extends' runs in a circle, run.yml -> base.yml -> run.yml; "
            "remove one of them",
        ),
        (
            {"run": RUN.replace("model:\n", "model:\n  extends: base.yml\n")},
            "run.yml:4: unknown key 'model.extends'; use one of name, norm, group_size, "
            "expand_ratio, padding, dropout, stochastic_depth, stem_stride, stage_strides, "
            "width_factor, depth_factor",
        ),
    ],
)
def test_a_fault_in_a_chain_of_files_names_the_file_it_stands_in(
    files: Dict[str, str], message: str
) -> None:
    assert refusal(**files) == message


# --set


def test_flags_change_a_run_in_their_order() -> None:
    write({"run.yml": RUN})
    run = load_run(
        "run.yml",
        [
            "system=ipu-pod16",
            "batching.micro_batch=8",
            "batching.micro_batch=16",
            "batching.gradient_accumulation=5",
            "pipeline.splits=[blocks.1, blocks.2]",
            "model.norm={kind: group, groups: 8}",
            "model.norm.proxy=true",
            "data.path=a=b",
            "optimizer.learning_rate=1e-3",
        ],
    )
    assert run.system.name == "IPU-POD16"
    assert run.batching == Batching(16, gradient_accumulation=5)
    assert run.pipeline == Pipeline(("blocks.1", "blocks.2"))
    assert run.model.norm == Norm("group", groups=8, proxy=True)
    assert run.data.path == "a=b"
    assert run.optimizer == Optimizer(learning_rate=0.001)


def test_a_flag_may_give_a_path_from_the_working_directory() -> None:
    write({"configs/run.yml": RUN, "desk.yml": SYSTEM})
    assert load_run("configs/run.yml", ["system=desk.yml"]).system.name == "Desk"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "batching.micro_batch=four",
            "'batching.micro_batch' must be int, got 'four' (str); give a whole number",
        ),
        (
            "batching.micro_batch=",
            "'batching.micro_batch' must be int, got nothing; give a whole number",
        ),
        (
            "batching.micro_bach=4",
            "unknown key 'batching.micro_bach'; did you mean 'batching.micro_batch'?",
        ),
        ("batching.micro_batch=0", "'batching.micro_batch' must be at least 1, got 0"),
        (
            "batching=4",
            "'batching' must be a section, got 4 (int); "
            "write its keys below it, indented, or leave it out",
        ),
        ("optimiser.name=sgd", "unknown key 'optimiser'; did you mean 'optimizer'?"),
        ("seed=1 --- 2", "'seed' must be int, got '1 --- 2' (str); give a whole number"),
        (
            "pipeline.splits=[a",
            "not valid YAML, expected ',' or ']', but got '<stream end>'; "
            "correct this line or those above it",
        ),
        (
            "system.ipus=8",
            "'system' is a value at run.yml:2, not a section; set 'system' as a whole",
        ),
        (
            "system=ipu-pod1",
            "'system' names no file in systems, got 'ipu-pod1'; "
            "did you mean 'ipu-pod16'? (or give a path that ends in .yml)",
        ),
        ("seed", "names no key and value; write --set section.key=value"),
        ("=3", "names no key and value; write --set section.key=value"),
        ("model..name=3", "names no key and value; write --set section.key=value"),
    ],
)
def test_a_bad_flag_is_named(flag: str, message: str) -> None:
    assert refusal(flag, run=RUN) == f"--set {flag}: {message}"


def test_a_flag_leaves_the_place_of_other_faults_alone() -> None:
    bad = RUN.replace("  micro_batch: 4\n", "  replicas: 1\n")
    assert refusal("batching.device_iterations=2", run=bad) == (
        "run.yml:8: section 'batching' lacks the key 'micro_batch'; add it"
    )


# Texts and dumps.


def test_a_text_is_refused_under_the_name_it_is_given() -> None:
    with pytest.raises(ConfigError) as refused:
        load_text(RUN.replace("small", "1"), "runs/a/config.yml")
    assert str(refused.value) == ("runs/a/config.yml:1: 'name' must be str, got 1 (int); quote it")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.stem))
def test_every_shipped_config_loads_and_survives_a_dump(path: Path) -> None:
    run = load_run(path)
    assert load_text(dump(run), "dump") == run


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: str(path.stem))
def test_every_shipped_system_loads(path: Path) -> None:
    assert isinstance(load_system(path), System)


def test_a_dump_holds_every_field() -> None:
    dumped = dump(load_text(RUN, "run.yml"))
    assert "proxy_gate_scale: delayed\n" in dumped
    assert "  splits: []\n" in dumped
    assert "    tiles: 1472\n" in dumped


TRAPS = ["", " ", "on", "null", "~", "010", "089", "1e-3", "1:30", "16.16", ".nan", "<<", "=", "'"]
texts = st.one_of(st.sampled_from(TRAPS), st.text())
NAME = re.compile(r"\w[\w.-]*")
names = st.one_of(
    st.sampled_from([trap for trap in TRAPS if NAME.fullmatch(trap)]),
    st.from_regex(NAME, fullmatch=True),
)
positive = st.floats(min_value=0, exclude_min=True, max_value=1e38)


@settings(deadline=None)
@given(
    name=names,
    path=st.none() | texts,
    seed=st.integers(min_value=0, max_value=2**63 - 1),
    learning_rate=positive,
    epsilon=st.none() | positive,
    std=st.lists(positive, min_size=3, max_size=3).map(tuple),
    proxy=st.booleans(),
    split=texts,
)
def test_what_is_dumped_is_what_is_loaded(
    name: str,
    path: Optional[str],
    seed: int,
    learning_rate: float,
    epsilon: Optional[float],
    std: Tuple[float, ...],
    proxy: bool,
    split: str,
) -> None:
    run = Run(
        name=name,
        system=replace(load_system(SYSTEMS[0]), name=name),
        model=Model("efficientnet_b0", Norm(proxy=proxy)),
        data=Data("digits", 8, path=path, std=std),
        batching=Batching(4, gradient_accumulation=3),
        training=Training(1),
        pipeline=Pipeline((split,)),
        optimizer=Optimizer(learning_rate=learning_rate, epsilon=epsilon),
        seed=seed,
    )
    assert load_text(dump(run), "dump") == run


def test_importing_the_configuration_loads_no_torch() -> None:
    check = "import sys, app.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
