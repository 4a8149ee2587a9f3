"""The weight update that runs on the device, with the optimiser's state.

Updates run over lists of tensors, so that Python's cost does not grow with the number of operations
per weight. The rules are in ``update_rules``; the names of state and scalars are PopART's.
"""

import math
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch

from app.ipu_model.poptorch._optimizers.clipping import clip_factor
from app.ipu_model.poptorch._optimizers.combined import CombinedBatching, CombinedReduction
from app.ipu_model.poptorch._optimizers.gradients import (
    ONE_PROCESS,
    Gradients,
    Processes,
    Reduction,
    accumulated_gradients,
    gradient_reduction,
    reduction_divisor,
    stored_type,
)
from app.ipu_model.poptorch._optimizers.rounding import NEAREST, HalfRounding, Stored
from app.ipu_model.poptorch._optimizers.scalars import scalar_name, scalars_of
from app.ipu_model.poptorch._optimizers.settings import GroupSettings, OptimizerSettings
from app.ipu_model.poptorch._optimizers.update_rules import RULES, Bucket
from app.ipu_model.poptorch.options import Options

State = Dict[str, torch.Tensor]


class DeviceOptimizer:
    """The optimiser's state on the device, and its update.

    Args:
        settings: what to run; replaced by ``settings = ...`` when values change.
        parameters: (name, tensor) of each trainable parameter.
        group_of: index into ``settings.groups`` for each parameter.
        options: the executor's; None has one micro-batch per update.
        rounding: of half weights, state and gradients.
        processes: those that train together.

    Raises:
        Error: combined SGD with a running mean.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        parameters: Sequence[Tuple[str, torch.nn.Parameter]],
        group_of: Sequence[int],
        options: Optional[Options] = None,
        rounding: HalfRounding = NEAREST,
        processes: Processes = ONE_PROCESS,
    ) -> None:
        self.settings = settings
        self.parameters = [parameter for _, parameter in parameters]
        self.rounding = rounding
        self._options = options if options is not None else Options()
        self._processes = processes
        self._combined: Optional[CombinedBatching] = None
        if settings.combined:
            self._combined = CombinedBatching(self._options, processes)
        self._parameters = parameters
        self._group_of = group_of
        self._state: List[State] = []
        self.reset()

    def reset(self) -> None:
        """Give the state its initial values."""
        self._state = [
            self._initial_state(parameter, self.settings.groups[group])
            for (_, parameter), group in zip(self._parameters, self._group_of)
        ]

    def reduction(self) -> Union[Reduction, CombinedReduction]:
        """What reduces the gradients of one call into those that ``step`` takes."""
        if self._combined is None:
            return gradient_reduction(
                self._options,
                self.parameters,
                self.settings.type_of("accum_type"),
                self.rounding,
                self._processes,
            )
        scale = self.settings.device_loss_scaling
        return CombinedReduction(
            accumulated_gradients(
                self._options, self.parameters, None, self.rounding, self._processes
            ),
            self.parameters,
            [state.get("Accl") for state in self._state],
            [self._gradient_factor(self.settings.groups[group], scale) for group in self._group_of],
            self._combined.is_accumulated,
            self.rounding,
            self._processes,
        )

    def _gradient_factor(self, group: GroupSettings, scale: float) -> float:
        """What a raw gradient is multiplied by before the state or the weight takes it: c, or k of
        combined SGD. It carries the loss scaling ``scale``."""
        if self._combined is not None and not group.is_off("momentum"):
            return self._combined.gradient_factor(group.values, scale)
        return 1.0 / (reduction_divisor(self._options, self._processes) * scale)

    @torch.no_grad()
    def step(self, gradients: Gradients, factor: float) -> None:
        """Update every weight that has a gradient.

        Args:
            gradients: reduced gradients, in the order of the parameters; they are overwritten.
            factor: c, which turns them into the gradient to follow.
        """
        rule = RULES[self.settings.kind]
        buckets = self._buckets(gradients, factor)
        operands = [rule.prepare(bucket) for bucket in buckets]
        limit = self.settings.max_grad_norm
        clipped = 1.0
        if not math.isinf(limit):
            clipped = clip_factor([operand.values for operand in operands], limit)
        for bucket, operand in zip(buckets, operands):
            values = operand.values
            if clipped != 1.0:
                # not in place: a velocity itself stays as it is
                values = operand.rounded(list(torch._foreach_mul(values, clipped)))
            rule.apply(bucket, values)

    def _buckets(self, gradients: Gradients, factor: float) -> List[Bucket]:
        members: Dict[Tuple[int, torch.dtype, torch.dtype], List[int]] = {}
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                key = (self._group_of[i], self.parameters[i].dtype, gradient.dtype)
                members.setdefault(key, []).append(i)
        return [
            self._bucket(chosen, gradients, factor, self.settings.groups[group])
            for (group, _, _), chosen in members.items()
        ]

    def _bucket(
        self, chosen: List[int], gradients: Gradients, factor: float, group: GroupSettings
    ) -> Bucket:
        states = [self._state[i] for i in chosen]
        names = [name for name in states[0] if name != "Step"]
        reduced = [g for g in (gradients[i] for i in chosen) if g is not None]
        return Bucket(
            w=Stored([self.parameters[i] for i in chosen], self.rounding),
            a=Stored(reduced, self.rounding),
            state={
                name: Stored([state[name] for state in states], self.rounding) for name in names
            },
            steps=[state["Step"] for state in states if "Step" in state],
            c=factor,
            replication=self._replication,
            group=group,
            settings=self.settings,
            rounding=self.rounding,
        )

    def _initial_state(self, parameter: torch.Tensor, group: GroupSettings) -> State:
        settings = self.settings

        def filled(value: float, type_name: str = "") -> torch.Tensor:
            dtype = stored_type(parameter, settings.type_of(type_name))
            return torch.full_like(parameter, value, dtype=dtype, requires_grad=False)

        first, second = "first_order_momentum_accum_type", "second_order_momentum_accum_type"
        if settings.kind == "SGD":
            if group.is_off("momentum"):
                return {}
            if settings.combined:
                return {"Accl": self._initial_combined(parameter, group)}
            return {"Accl1": filled(0.0, "velocity_accum_type")}
        if settings.kind != "RMSprop":
            return {"Accl1": filled(0.0, first), "Accl2": filled(0.0, second),
                    "Step": torch.zeros(())}  # fmt: skip
        state = {"Accl1": filled(1.0 if settings.tf_variant else 0.0, first)}
        if settings.centered:
            # PopART makes it of the first moment's type
            state["Accl2"] = filled(0.0, first)
        if not group.is_off("momentum"):
            state["Accl3"] = filled(0.0)
        return state

    def _initial_combined(self, parameter: torch.Tensor, group: GroupSettings) -> torch.Tensor:
        dampening, wd, vs = (
            group.values[name] for name in ("dampening", "weight_decay", "velocity_scaling")
        )
        wide = parameter.detach().to(stored_type(parameter, torch.float32))
        return self.rounding.to(wide * ((1 - dampening) * wd * vs), parameter.dtype)

    def named_state(self) -> Dict[str, torch.Tensor]:
        """Copies of the state, named as PopART names it (``Accl1___<weight>``, ...)."""
        return {
            f"{key}___{name}": tensor.clone(memory_format=torch.contiguous_format)
            for (name, _), state in zip(self._parameters, self._state)
            for key, tensor in state.items()
        }

    def load_named_state(self, loaded: Mapping[str, torch.Tensor]) -> List[str]:
        """Copy matching tensors in; returns the names that were missing."""
        missing = []
        for (name, _), state in zip(self._parameters, self._state):
            for key, tensor in state.items():
                full_name = f"{key}___{name}"
                if full_name in loaded:
                    tensor.copy_(loaded[full_name])
                else:
                    missing.append(full_name)
        return missing

    def named_scalars(self) -> Dict[str, torch.Tensor]:
        """Hyper-parameters that may change, as the device holds them, and the loss scaling:
        the program's own, which automatic loss scaling multiplies in a tensor of its own."""
        loss_scaling = self.settings.loss_scaling
        scalars = {"lossScaling_FLOAT": torch.tensor(loss_scaling)}
        for (name, parameter), index in zip(self._parameters, self._group_of):
            group = self.settings.groups[index]
            factor = self._gradient_factor(group, loss_scaling)
            is_in_a_group = index < len(self.settings.groups) - 1
            found = scalars_of(self.settings, group, factor, self._replication)
            for prefix, value in found.items():
                full_name = scalar_name(prefix, name, is_in_a_group, parameter.dtype)
                scalars[full_name] = torch.tensor(float(value))
        return scalars

    @property
    def _replication(self) -> int:
        return self._combined.replication if self._combined is not None else 1
