"""The verb ``diagnose``: networks, images, text and files of the tiny run."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch

from app.cli import main
from app.config.loader import dump
from app.config.schema import Norm
from app.diagnostics.measure import Request, diagnose, label_of, norm_from
from app.diagnostics.report import FILES, as_csv_text, as_json_text, summary
from app.diagnostics.report.picture import figure
from app.diagnostics.results import Diagnosis
from app.errors import ConfigError
from app.nets import build_net
from app.training.checkpoints import Checkpoint, CheckpointStore
from tests.training.tiny_run import TINY, tiny_run

FEW = ["--images", "12", "--batch", "8"]


@pytest.fixture(autouse=True)
def backend_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPU_APP_BACKEND", "auto")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a checkpoint of what would be a trained network."""
    out, run = tmp_path_factory.mktemp("diagnose") / "run", tiny_run()
    torch.manual_seed(7)
    state = build_net(run.model, run.data.num_classes).state_dict()
    average = {name: tensor.double() * 1.5 for name, tensor in state.items()}
    CheckpointStore(out, keep=1).save(
        Checkpoint(3, 36, 1, dump(run), state, {}, [0, 0], average=average)
    )
    return out


@pytest.fixture(scope="module")
def initial() -> Diagnosis:
    return diagnose(Request(images=12, batch=8), tiny_run("data.image_size=16"))


def refusal(capsys: "pytest.CaptureFixture[str]", *arguments: str) -> str:
    assert main(["diagnose", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err[:-1]


def test_the_norms_of_the_paper_are_compared_at_initialisation(initial: Diagnosis) -> None:
    assert [network.label for network in initial.networks] == ["BN", "GN4", "LN", "LN+PN", "IN"]
    assert not any(network.trained for network in initial.networks)
    depths = {len(network.at("normalised")) for network in initial.networks}
    assert depths == {2 + 2 + 6 * 3}  # stem and head, the first unit, six more

    means = {n.label: n.thirds("normalised", lambda s: s.share_of_means) for n in initial.networks}
    images = {
        n.label: n.thirds("normalised", lambda s: s.share_of_images) for n in initial.networks
    }
    assert max(means["BN"]) < 1e-9
    assert means["LN+PN"][-1] < means["LN"][-1]
    assert max(images["IN"]) < 0.01 < min(images["BN"])


def test_one_seed_gives_the_same_numbers_and_another_gives_others(initial: Diagnosis) -> None:
    request = Request(norms=("layer",), images=12, batch=8)
    run = tiny_run("data.image_size=16")
    (again,) = diagnose(request, run).networks
    assert again == initial.networks[2]
    (other,) = diagnose(replace(request, seed=1), run).networks
    assert other.measured != again.measured


def test_random_scales_and_shifts_denormalise_more() -> None:
    request = Request(norms=("layer",), images=12, affine_spread=0.5)
    drawn, plain = (
        diagnose(each, tiny_run()).networks[0].thirds("normalised", lambda s: s.share_of_means)
        for each in (request, Request(norms=("layer",), images=12))
    )
    assert drawn[-1] > plain[-1]


def test_the_text_has_a_row_for_every_norm_in_every_table(initial: Diagnosis) -> None:
    lines = summary(initial).splitlines()
    assert lines[0] == (
        "efficientnet_b0, group size 16, generated at 16 px; 12 train images, up to 8 at once, "
        "seed 0"
    )
    assert lines[1].endswith("Measured on this CPU.")
    assert lines[4].split() == ["first", "middle", "last"]
    assert lines[5].split() == ["BN", "0.000", "0.000", "0.000"]
    assert sum(line.startswith("  LN+PN ") for line in lines) == 5
    assert max(map(len, lines)) <= 100


def test_json_and_csv_hold_every_tensor(initial: Diagnosis) -> None:
    data = json.loads(as_json_text(initial))
    rows = list(csv.DictReader(as_csv_text(initial).splitlines()))
    assert data["figures"] == "measured"
    assert [n["label"] for n in data["networks"]] == ["BN", "GN4", "LN", "LN+PN", "IN"]
    tensors = [(n["label"], m) for n in data["networks"] for m in n["measured"]]
    assert len(rows) == len(tensors)
    for row, (label, tensor) in zip(rows, tensors):
        assert (row["network"], row["site"], row["module"]) == (
            label,
            tensor["site"],
            tensor["module"],
        )
        assert float(row["share_of_means"]) == tensor["share_of_means"]
        assert float(row["means_p90"]) == tensor["means_quantiles"][2]


def test_the_picture_has_a_line_for_every_norm_and_names_it(initial: Diagnosis) -> None:
    drawn = figure(initial)
    assert drawn._suptitle.get_text().endswith("– measured")
    for axes, value in zip(drawn.axes, ("share_of_means", "share_of_images")):
        assert [text.get_text() for text in axes.texts][1:] == [
            network.label
            for network in sorted(
                initial.networks,
                key=lambda n: (getattr(n.at("normalised")[-1].summary, value), n.label),
            )
        ]
        for line, network in zip(axes.lines, initial.networks):
            expected = [getattr(m.summary, value) for m in network.at("normalised")]
            assert list(line.get_ydata()) == expected
        assert len({line.get_color() for line in axes.lines}) == 5


def test_the_verb_writes_its_files(tmp_path: Path, capsys: "pytest.CaptureFixture[str]") -> None:
    out = tmp_path / "made" / "here"
    arguments = ["--config", str(TINY), *FEW, "--norms", "layer,layer+proxy", "--out", str(out)]
    assert main(["diagnose", *arguments]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert (out / FILES[0]).read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith(", ".join(str(out / name) for name in FILES) + "\n")


def test_a_checkpoint_brings_its_own_network_and_images(
    trained: Path, capsys: "pytest.CaptureFixture[str]"
) -> None:
    assert main(["diagnose", "--checkpoint", str(trained), *FEW, "--json"]) == 0
    (network,) = networks(capsys)
    assert network["label"] == "LN+PN"
    assert network["source"] == str(trained / "checkpoint-000000003.pt")
    assert network["norm"]["proxy_samples"] == 16


def test_checkpoints_of_one_norm_and_initial_networks_are_told_apart(
    trained: Path, capsys: "pytest.CaptureFixture[str]"
) -> None:
    twice = ["--checkpoint", str(trained)] * 2
    norms = ["--config", str(TINY), "--norms", "layer+proxy"]
    assert main(["diagnose", *twice, *norms, *FEW, "--json"]) == 0
    found = networks(capsys)
    assert [n["label"] for n in found] == ["LN+PN at init", "LN+PN run", "LN+PN (2)"]
    assert found[0]["measured"] != found[1]["measured"] == found[2]["measured"]
    assert main(["diagnose", *twice[:2], "--weights", "last", *FEW, "--json"]) == 0
    assert networks(capsys)[0]["measured"] != found[1]["measured"]


def networks(capsys: "pytest.CaptureFixture[str]") -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = json.loads(capsys.readouterr().out)["networks"]
    return found


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("batch", "BN"),
        ("group", "GN4"),
        ("group:8", "GN8"),
        ("group:8+proxy", "GN8+PN"),
        ("layer+proxy", "LN+PN"),
        ("layer+standardised", "LN+WS"),
        ("instance", "IN"),
        ("weight", "WN"),
        ("online", "ON"),
    ],
)
def test_norms_are_named_briefly(text: str, label: str) -> None:
    # groups of 1 in a configuration of layer norm are not meant for group norm
    assert label_of(norm_from(text, Norm(kind="layer", groups=1, proxy=True))) == label


@pytest.mark.parametrize(
    "text", ["bach", "layer+poxy", "group:x", "group:", "layer:4", "weight+proxy", ""]
)
def test_what_is_no_norm_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--norms "):
        norm_from(text, Norm())


def test_requests_that_cannot_be_met_are_one_sentence(
    capsys: "pytest.CaptureFixture[str]", tmp_path: Path, trained: Path
) -> None:
    config = ["--config", str(TINY)]
    assert refusal(capsys, *config, "--images", "41") == (
        "--images: the train split of generated has 40, got 41; ask for fewer"
    )
    assert refusal(capsys, *config, "--images", "1").startswith("--images: must be at least 2")
    assert refusal(capsys, *config, "--affine-spread", "-1").startswith("--affine-spread: must")
    assert refusal(capsys).startswith("--config: is needed for networks at initialisation")
    assert refusal(capsys, "--checkpoint", str(tmp_path)).startswith(
        f"{tmp_path}: holds no checkpoint"
    )
    other = ["--checkpoint", str(trained), *config, "--set", "data.num_classes=7"]
    assert "does not fit efficientnet_b0" in refusal(capsys, *other)
    (tmp_path / "file").touch()
    assert main(["diagnose", *config, *FEW, "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
