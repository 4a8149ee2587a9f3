"""Wrapping a module for the device, and restoring one from a file.

Source: graphcore/poptorch, python/__init__.py (SDK 3.4).
"""

from typing import Any, Callable, Optional, Union

import torch

from app.ipu_model.poptorch._device import export, wrapping
from app.ipu_model.poptorch._device.wrapping import host_weights_of
from app.ipu_model.poptorch.enums import ConnectionType
from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.executor import WRAPPED, PoplarExecutor
from app.ipu_model.poptorch.options import Options

ModelOrExecutor = Union[torch.nn.Module, PoplarExecutor]
VERSION = "3.4.0"


def trainingModel(
    model: ModelOrExecutor,
    options: Optional[Options] = None,
    optimizer: Optional[torch.optim.Optimizer] = None,
) -> PoplarExecutor:
    """Wrap a module whose ``forward`` computes and returns the loss.

    Args:
        model: the module; its weights are trained in place.
        options: frozen from here on.
        optimizer: torch's or PopTorch's SGD, Adam, AdamW or RMSprop; SGD with lr 0.01 when None.

    Raises:
        Error: ``options`` is no ``Options``.
        RuntimeError: the module is wrapped already.
    """
    _check_options(options)
    module = model._user_model if isinstance(model, PoplarExecutor) else model
    if host_weights_of(module) is not None:
        raise RuntimeError(WRAPPED)
    # the copy has its own training flag and shares everything below it
    twin = wrapping.plain_copy(module)
    return PoplarExecutor(twin, options, True, VERSION, optimizer, module)


def inferenceModel(model: ModelOrExecutor, options: Optional[Options] = None) -> PoplarExecutor:
    """Wrap a module, or the module of a training executor, whose weights it then shares.

    Raises:
        Error: ``options`` is no ``Options``, or asks for gradient accumulation.
    """
    _check_options(options)
    module = model._user_model if isinstance(model, PoplarExecutor) else model
    return PoplarExecutor(wrapping.plain_copy(module), options, False, VERSION, None, module)


def _check_options(options: Any) -> None:
    if options is not None and not isinstance(options, Options):
        raise Error(
            f"Invalid type: 'options' is of type {type(options)} (Expected poptorch.Options)"
        )


def load(filename: str, edit_opts_fn: Optional[Callable[[Options], Any]] = None) -> PoplarExecutor:
    """Restore an executor, its model and its optimiser from a file.

    Args:
        filename: written by ``compileAndExport`` or ``save`` with ``export_model=True``.
        edit_opts_fn: changes the options before they are used; of effect are those of the run
            time, since the executable is compiled.

    Raises:
        Error: the file holds no model, or comes from another version.
    """
    saved = export.read(filename, VERSION, with_model=True)
    if saved.model is None or saved.options is None:
        raise Error(
            f"{filename}: the model was not exported; export it with export_model=True, or wrap "
            "the model and call loadExecutable."
        )
    # what was compiled offline is loaded to be run
    if saved.options.connection_type == ConnectionType.Never:
        saved.options.deleteIfExists("ipu_version")
        saved.options.connectionType(ConnectionType.Always)
    if edit_opts_fn is not None:
        edit_opts_fn(saved.options)
    if saved.training:
        executor = trainingModel(saved.model, saved.options, saved.optimizer)
    else:
        executor = inferenceModel(saved.model, saved.options)
    executor._compile(saved.arguments)
    if saved.rng_state is not None:
        executor.rng_state = saved.rng_state
    return executor
