"""PopTorch's and PopDist's interface as data: which name an object has, and what a call takes.

PopTorch's is ``poptorch_api.json``, extracted from its sources. PopDist is closed; its names and
arguments are those of Graphcore's *PopDist and PopRun user guide*.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional

import torch

from app.ipu_model.api_table import read_api

Parameters = List[Mapping[str, Any]]


@dataclass(frozen=True)
class Member:
    """A name of a module, a class or an object.

    result: the type of what it is or, if it can be called, of what a call returns; empty where
    that is no object of the SDK.
    """

    kind: str
    """``module``, ``class``, ``callable`` or ``value``."""
    result: str = ""
    params: Optional[Parameters] = None
    settable: bool = True


def _params(*names: str, optional: Iterable[str] = (), any_more: bool = False) -> Parameters:
    found: Parameters = [
        {"name": name, "kind": "positional_or_keyword", "required": name not in optional}
        for name in names
    ]
    if any_more:
        found += [
            {"name": "args", "kind": "var_positional", "required": False},
            {"name": "kwargs", "kind": "var_keyword", "required": False},
        ]
    return found


_POPDIST = {
    "init": _params(),
    "isPopdistEnvSet": _params(),
    "getInstanceIndex": _params(),
    "getNumInstances": _params(),
    "getLocalInstanceIndex": _params(),
    "getNumTotalReplicas": _params(),
    "getNumLocalReplicas": _params(),
    "getNumIpusPerReplica": _params(),
    "getReplicaIndexOffset": _params(),
    "checkNumIpusPerReplica": _params("num_ipus"),
    "getDeviceId": _params("ipusPerReplica", optional=["ipusPerReplica"]),
    "execute_on_instances": _params("instances", "func", any_more=True),
}
_OWN_TYPE = {"'poptorch.PoplarExecutor'": "poptorch.PoplarExecutor",
             "'poptorch.Options'": "poptorch.Options"}  # fmt: skip
_SECTIONS = ("Jit", "Precision", "Training", "_Popart", "Distributed", "TensorLocations")


class Table:
    """All types by name, such as ``poptorch.Options.Training``, with their members."""

    def __init__(self) -> None:
        self.types: Dict[str, Dict[str, Member]] = {}
        self._torch: Dict[str, Any] = {}
        api = read_api()
        self._poptorch(api)
        self._options(api)
        for name in ("SGD", "Adam", "AdamW", "RMSprop"):
            made = getattr(torch.optim, name)([torch.zeros(1, requires_grad=True)], lr=0.1)
            self._torch[f"poptorch.optim.{name}"] = made
        self._torch["poptorch.DataLoader"] = torch.utils.data.DataLoader
        self.types["popdist"] = {
            name: Member("callable", "", params) for name, params in _POPDIST.items()
        }
        self.types["popdist"]["poptorch"] = Member("module", "popdist.poptorch")
        ipus = "ipus_per_replica"
        options = Member("class", "popdist.poptorch.Options", _params(ipus, optional=[ipus]))
        self.types["popdist.poptorch"] = {"Options": options}
        self.types["popdist.poptorch.Options"] = {
            name: member
            for name, member in self.types["poptorch.Options"].items()
            if name not in ("replicationFactor", "useIpuId")  # RuntimeError there
        }

    def _poptorch(self, api: Mapping[str, Any]) -> None:
        module: Dict[str, Member] = {}
        for name, contract in api["poptorch"].items():
            if contract["kind"] == "function":
                result = _OWN_TYPE.get(contract.get("returns", ""), "")
                module[name] = Member("callable", result, contract["params"])
            else:
                module[name] = self._class(f"poptorch.{name}", contract)
        for name, contract in api["enums"].items():
            module[name] = Member("value", f"poptorch.{name}")
            self.types[f"poptorch.{name}"] = {each: Member("value") for each in contract["members"]}
        for name in ("Error", "RecoverableError", "UnrecoverableError", "ConfigFileError"):
            module[name] = Member("value")
        module["Options"] = self._class("poptorch.Options", api["poptorch.Options"])
        executor = "poptorch.PoplarExecutor"
        module["PoplarExecutor"] = self._class(executor, api[executor])
        module["optim"] = Member("module", "poptorch.optim")
        optimizers = api["poptorch.optim"]
        self.types["poptorch.optim"] = {
            name: self._class(f"poptorch.optim.{name}", contract)
            for name, contract in optimizers.items()
        }
        for name in optimizers:
            if "Optimizer" in optimizers[name]["bases"]:
                inherited = self.types["poptorch.optim.Optimizer"]
                self.types[f"poptorch.optim.{name}"] = {
                    **inherited,
                    **self.types[f"poptorch.optim.{name}"],
                }
        self.types["poptorch"] = module

    def _options(self, api: Mapping[str, Any]) -> None:
        base = api["poptorch.options.OptionsDict(base)"]
        values = api["poptorch.Options.values"]
        later = values["created_later_by_setters"]
        for name in _SECTIONS:
            self._class(f"poptorch.Options.{name}", api[f"poptorch.Options.{name}"])
            self.types["poptorch.Options"][name] = Member("value", f"poptorch.Options.{name}")
        for name in ("", *_SECTIONS, "TensorLocationSettings"):
            full = f"poptorch.Options.{name}".rstrip(".")
            full = "poptorch.TensorLocationSettings" if name == "TensorLocationSettings" else full
            own = self.types[full]
            if name != "_Popart":
                own.update({k: v for k, v in self._methods(full, base).items() if k not in own})
            for value in (*values.get(name or "Options", {}), *later.get(name or "Options", ())):
                own.setdefault(value, Member("value"))

    def _class(self, full: str, contract: Mapping[str, Any]) -> Member:
        methods = self._methods(full, contract)
        for name, stated in contract.get("properties", {}).items():
            result = _OWN_TYPE.get(stated["returns"], "")
            methods[name] = Member("value", result, settable=stated["settable"])
        self.types[full] = methods
        constructor = contract.get("methods", {}).get("__init__", {"params": []})
        return Member("class", full, constructor["params"])

    def _methods(self, full: str, contract: Mapping[str, Any]) -> Dict[str, Member]:
        return {
            name: Member("callable", full if method.get("returns_self") else "", method["params"])
            for name, method in contract.get("methods", {}).items()
            if name != "__init__"
        }

    def find(self, owner: str, name: str) -> Optional[Member]:
        """The member of a type; None if it has none of this name."""
        member = self.types[owner].get(name)
        if member is None and hasattr(self._torch.get(owner), name):
            return Member("value")  # torch's own
        return member

    def unknown(self, owner: str, name: str) -> str:
        """What is wrong with ``owner.name``; empty if nothing."""
        return "" if self.find(owner, name) else f"{owner} has no {name!r}"

    def wrong_call(
        self, owner: str, name: str, positional: int, keywords: Iterable[str], open_ended: bool
    ) -> str:
        """What is wrong with the arguments of a call; empty if nothing.

        open_ended: there are more, as with ``*args``, that cannot be counted.
        """
        member = self.find(owner, name)
        if member is None:
            return self.unknown(owner, name)
        if member.params is None:
            torch_has_it = name not in self.types[owner]
            return "" if torch_has_it else f"{owner}.{name} cannot be called"
        signature = _signature(member.params)
        bind = signature.bind_partial if open_ended else signature.bind
        try:
            bind(*[None] * positional, **dict.fromkeys(keywords))
        except TypeError as error:
            return f"{owner}.{name}{signature}: {error}"
        return ""


def _signature(params: Parameters) -> inspect.Signature:
    return inspect.Signature(
        [
            inspect.Parameter(
                each["name"],
                getattr(inspect.Parameter, each["kind"].upper()),
                default=inspect.Parameter.empty
                if each["required"] or each["kind"].startswith("var_")
                else None,
            )
            for each in params
        ]
    )
