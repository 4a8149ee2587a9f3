"""Compile, export, load; an executable cache; hooks around the compilation."""

import tempfile
from pathlib import Path

import poptorch
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(10, 10)
        self.loss = nn.MSELoss()

    def forward(self, x, target=None):
        fc = self.fc(x)
        if self.training:
            return fc, self.loss(fc, target)
        return fc


def export_and_load(folder, x, target):
    filename = str(folder / "training.poptorch")
    torch.manual_seed(0)
    model = Model()
    options = poptorch.Options().useOfflineIpuTarget(2)
    executor = poptorch.trainingModel(model, options)
    executor.compileAndExport(filename, x, target)
    executor.destroy()

    torch.manual_seed(0)
    expected = poptorch.trainingModel(Model())(x, target)
    loaded = poptorch.load(filename, edit_opts_fn=lambda opts: opts.modelName("loaded"))
    for actual, wanted in zip(loaded(x, target), expected):
        torch.testing.assert_close(actual, wanted)
    loaded.destroy()

    torch.manual_seed(0)
    executor = poptorch.trainingModel(Model(), poptorch.Options())
    executor.compileAndExport(str(folder), x, target, export_model=False)
    executor.destroy()
    assert (folder / "model.poptorch").exists()
    torch.manual_seed(0)
    executor = poptorch.trainingModel(Model(), poptorch.Options())
    executor.loadExecutable(str(folder / "model.poptorch"))
    torch.testing.assert_close(executor(x, target)[1], expected[1])


def offline_refuses_to_run(x, target):
    executor = poptorch.trainingModel(Model(), poptorch.Options().useOfflineIpuTarget())
    try:
        executor(x, target)
    except AssertionError as error:
        assert "offline" in str(error)
    else:
        raise SystemExit("an offline target ran a model")


def cached(folder, x):
    events = []
    before = poptorch.registerPreCompileHook(lambda: events.append("before"))
    after = poptorch.registerPostCompileHook(lambda: events.append("after"))
    options = poptorch.Options().enableExecutableCaching(folder)
    options.connectionType(poptorch.ConnectionType.OnDemand)
    executor = poptorch.inferenceModel(Model().eval(), options)
    executor.compile(x)
    assert executor.isCompiled()
    executor(x)
    print("compiled in", executor.compilationTime())
    before.remove()
    after.remove()
    poptorch.inferenceModel(Model().eval())(x)
    assert events == ["before", "after"], events


def main():
    torch.manual_seed(1)
    x, target = torch.randn(4, 10), torch.randn(4, 10)
    with tempfile.TemporaryDirectory() as folder:
        export_and_load(Path(folder), x, target)
        cached(str(Path(folder) / "cache"), x)
    offline_refuses_to_run(x, target)


if __name__ == "__main__":
    main()
