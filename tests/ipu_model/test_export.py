"""Executables on disk: what comes back, and what is refused."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch

X = torch.arange(8.0).reshape(4, 2)


class Net(nn.Module):
    """A small model with a dropout, a tied weight and a choice of activation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layers = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), drop=nn.Dropout(0.5)))
        self.tied = self.layers.a
        self.activation = torch.nn.functional.relu
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Any:
        y = self.activation(self.tied(self.layers(x))) * self.scale
        return poptorch.identity_loss(y, "mean")


def options() -> poptorch.Options:
    return poptorch.Options().deviceIterations(2).randomSeed(9)


def training() -> poptorch.PoplarExecutor:
    model = Net()
    optimizer = poptorch.optim.Adam(model.parameters(), lr=0.1)
    return poptorch.trainingModel(model, options(), optimizer)


def test_a_training_model_comes_back_and_goes_on(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "model.poptorch")
    original = training()
    original.compileAndExport(path, X)
    loaded = poptorch.load(path)
    assert loaded.isCompiled()
    assert loaded.options.device_iterations == 2
    assert loaded.model.tied is loaded.model.layers.a
    for _ in range(3):
        assert torch.equal(loaded(X), original(X))
    for mine, theirs in zip(loaded.model.parameters(), original.model.parameters()):
        assert torch.equal(mine, theirs)


def test_random_state_is_saved_unless_it_is_not_wanted(tmp_path: Path) -> None:
    original = training()
    original(X)
    original.save(str(tmp_path / "with"))
    original.save(str(tmp_path / "without"), save_rng_state=False)
    assert poptorch.load(str(tmp_path / "with")).rng_state == original.rng_state
    assert poptorch.load(str(tmp_path / "without")).rng_state != original.rng_state


def test_an_inference_model_comes_back(tmp_path: Path) -> None:
    original = poptorch.inferenceModel(Net().eval(), options())
    original.compileAndExport(str(tmp_path), X)
    assert (tmp_path / "model.poptorch").exists()
    loaded = poptorch.load(str(tmp_path / "model.poptorch"))
    assert torch.equal(loaded(X), original(X))


def test_options_can_be_edited_while_loading(tmp_path: Path) -> None:
    path = str(tmp_path / "m.poptorch")
    poptorch.inferenceModel(Net().eval()).compileAndExport(path, X)
    loaded = poptorch.load(path, lambda opts: opts.randomSeed(42))
    assert loaded.options.random_seed == 42


def test_an_executable_alone_needs_the_model(tmp_path: Path) -> None:
    path = str(tmp_path / "m.poptorch")
    original = poptorch.inferenceModel(Net().eval(), options())
    original.compileAndExport(path, X, export_model=False)
    with pytest.raises(poptorch.Error, match="export_model=True"):
        poptorch.load(path)
    again = poptorch.inferenceModel(Net().eval(), options())
    again.loadExecutable(path)
    assert again.isCompiled()
    assert torch.equal(again(X), original(X))


@pytest.mark.parametrize(
    "activation",
    [
        torch.tanh,
        torch.sigmoid,
        torch.nn.functional.gelu,
        torch.nn.functional.softplus,
        torch.nn.functional.silu,
        torch.nn.functional.hardtanh,
    ],
)
def test_a_model_keeps_a_function_of_torch(activation: Any, tmp_path: Path) -> None:
    model = Net().eval()
    model.activation = activation
    original = poptorch.inferenceModel(model)
    original.compileAndExport(str(tmp_path / "m"), X)
    assert torch.equal(poptorch.load(str(tmp_path / "m"))(X), original(X))


def doubled(x: Tensor) -> Tensor:
    return x * 2


def test_an_executable_is_loaded_without_the_model_beside_it(tmp_path: Path) -> None:
    path = str(tmp_path / "m")
    model = Net().eval()
    model.activation = doubled
    original = poptorch.inferenceModel(model)
    original.compileAndExport(path, X)
    with pytest.raises(poptorch.Error, match=r"doubled is neither .* call loadExecutable"):
        poptorch.load(path)
    again = poptorch.inferenceModel(model)
    again.loadExecutable(path)
    assert torch.equal(again(X), original(X))


def test_saving_needs_an_executable(tmp_path: Path) -> None:
    with pytest.raises(poptorch.Error, match="Model has not been compiled"):
        training().save(str(tmp_path / "m"))


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.poptorch"
    poptorch.inferenceModel(Net().eval()).compileAndExport(str(path), X)
    content = torch.load(path, weights_only=False)
    torch.save({**content, "version": "3.3.0"}, path)
    with pytest.raises(poptorch.Error, match=r"saved by 3\.3\.0, this is 3\.4\.0"):
        poptorch.load(str(path))


class Attack:
    ran = False

    def __reduce__(self) -> Any:
        return (exec, ("import tests.ipu_model.test_export as t; t.Attack.ran = True",))


def replaced(part: Any, objects: bytes) -> Any:
    """A part of a file with other objects."""
    return torch.frombuffer(bytearray(objects), dtype=torch.uint8), part[1]


def test_a_strangers_file_runs_no_code(tmp_path: Path) -> None:
    whole, inside = tmp_path / "whole", tmp_path / "inside"
    whole.write_bytes(pickle.dumps(Attack()))
    poptorch.inferenceModel(Net().eval()).compileAndExport(str(inside), X)
    content = torch.load(inside, weights_only=False)
    content["model"] = replaced(content["model"], pickle.dumps(Attack()))
    torch.save(content, inside)
    with pytest.raises(poptorch.Error, match="not an executable of the IPU Model"):
        poptorch.load(str(whole))
    with pytest.raises(poptorch.Error, match=r"builtins\.exec is neither a module nor a plain"):
        poptorch.load(str(inside))
    assert not Attack.ran


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.nn.functional", "torch.os.mkdir"),
        ("app.ipu_model.poptorch._device.fabric", "os.mkdir"),
        ("app.ipu_model.poptorch._device.export", "io.FileIO"),
        ("app.ipu_model.poptorch._device.export", "Path.mkdir"),
        ("app.ipu_model.poptorch._device.export", "Path"),
        ("torch.nn.functional", "handle_torch_function"),
    ],
)
def test_a_name_leads_to_nothing_that_its_module_imported(
    module: str, name: str, tmp_path: Path
) -> None:
    path, made = tmp_path / "m", tmp_path / "made"
    poptorch.inferenceModel(Net().eval()).compileAndExport(str(path), X)
    content = torch.load(path, weights_only=False)
    texts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name, str(made))]
    called = b"\x80\x04" + texts[0] + texts[1] + b"\x93" + texts[2] + b"\x85R."  # name(made)
    content["model"] = replaced(content["model"], called)
    torch.save(content, path)
    with pytest.raises(poptorch.Error, match=r"neither a module nor|has not imported"):
        poptorch.load(str(path))
    assert not made.exists()


class Outer:
    class Inner(nn.Linear):
        """A module whose name has a dot."""


def test_a_nested_class_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "m")
    original = poptorch.inferenceModel(Outer.Inner(2, 1).eval())
    original.compileAndExport(path, X)
    assert torch.equal(poptorch.load(path)(X), original(X))


def test_a_class_that_was_not_imported_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m"
    poptorch.inferenceModel(Net().eval()).compileAndExport(str(path), X)
    content = torch.load(path, weights_only=False)
    renamed = bytes(content["model"][0].numpy()).replace(b"test_export", b"test_expory")
    content["model"] = replaced(content["model"], renamed)
    torch.save(content, path)
    with pytest.raises(poptorch.Error, match=r"import tests\.ipu_model\.test_expory before"):
        poptorch.load(str(path))


class Configured(Net):
    """Holds an object that nobody vouches for."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Attack.Settings()


Attack.Settings = type("Settings", (), {"__module__": __name__, "__qualname__": "Attack.Settings"})


def test_saving_says_what_cannot_be_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "m")
    poptorch.inferenceModel(Configured().eval()).compileAndExport(path, X)
    assert "The model is saved, but cannot be loaded" in caplog.text
    assert "Attack.Settings is neither" in caplog.text
    again = poptorch.inferenceModel(Configured().eval())
    again.loadExecutable(path)
    assert again.isCompiled()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 constants.pkl", b"old tar format"])
def test_formats_whose_loader_runs_code_are_not_given_to_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(content)
    with pytest.raises(poptorch.Error, match="not an executable of the IPU Model"):
        poptorch.load(str(path))


def test_a_file_makes_no_connection(tmp_path: Path) -> None:
    path = tmp_path / "m"
    poptorch.inferenceModel(Net().eval()).compileAndExport(str(path), X)
    content = torch.load(path, weights_only=False)
    group = (
        b"\x80\x04capp.ipu_model.poptorch._device.fabric\n_Group\n(V127.0.0.1\nK\x01K\x01K\x00tR."
    )
    content["executable"] = (torch.frombuffer(bytearray(group), dtype=torch.uint8), {})
    torch.save(content, path)
    with pytest.raises(poptorch.Error, match="_Group is neither a module nor a plain value"):
        poptorch.load(str(path))
