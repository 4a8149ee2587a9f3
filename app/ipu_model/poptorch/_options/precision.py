"""``Options.Precision`` and ``Options.Jit``.

Source: graphcore/poptorch, python/options.py (SDK 3.4).
"""

import torch

from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch._options.base import OptionsDict
from app.ipu_model.poptorch._options.popart import _PopartOptions
from app.ipu_model.poptorch.enums import HalfFloatCastingBehavior


class _PrecisionOptions(OptionsDict):
    """Rounding, partial sums and floating-point exceptions."""

    def __init__(self, popart_options: _PopartOptions) -> None:
        self._popart_options = popart_options
        super().__init__()

    def halfFloatCasting(self, half_float_casting: HalfFloatCastingBehavior) -> "_PrecisionOptions":
        """Without effect since PopTorch 3.3: mixed operands are promoted as in torch."""
        self.checkIsFrozen()
        logger.warning(
            "Precision.halfFloatCasting has no effect: operands of different types are promoted "
            "as in torch; cast them where another type is wanted."
        )
        return self

    def runningStatisticsAlwaysFloat(self, value: bool) -> "_PrecisionOptions":
        """Without effect since PopTorch 3.3: running statistics keep their type."""
        self.checkIsFrozen()
        logger.warning(
            "Precision.runningStatisticsAlwaysFloat has no effect: running statistics keep their "
            "type; cast them with .float() where float32 is wanted."
        )
        return self

    def enableFloatingPointExceptions(self, enabled: bool) -> "_PrecisionOptions":
        """Stop on overflow, division by zero and comparisons with NaN."""
        assert isinstance(enabled, bool), (
            "enableFloatingPointExceptions needs to be set to a bool"
        )  # fmt: skip
        self._popart_options.set("enableFloatingPointChecks", enabled)
        return self

    def enableStochasticRounding(self, enabled: bool) -> "_PrecisionOptions":
        """Round half results up or down at random, with the right expectation."""
        self._popart_options.set("enableStochasticRounding", enabled)
        return self

    def setPartialsType(self, dtype: torch.dtype) -> "_PrecisionOptions":
        """Type of the partial sums of matrix products and convolutions.

        It replaces all convolution options.

        Raises:
            ValueError: neither ``torch.float`` nor ``torch.half``.
        """
        if dtype not in (torch.float, torch.half):
            # the missing space is PopTorch's
            raise ValueError(
                "parameter to setPartialsType should be eithertorch.float or torch.half"
            )
        partials = "float" if dtype == torch.float else "half"
        self._popart_options.set("partialsTypeMatMuls", partials)
        self._popart_options.set("convolutionOptions", {"partialsType": partials})
        return self


class _JitOptions(OptionsDict):
    """What is left of PopTorch's two ways of recording a model."""

    def traceModel(self, trace_model: bool) -> "_JitOptions":
        """Only False: ``torch.jit.trace`` is no longer used.

        Raises:
            ValueError: ``trace_model`` is true.
        """
        self.checkIsFrozen()
        if trace_model:
            raise ValueError(
                "Jit.traceModel(True): tracing is no longer supported; remove the call."
            )
        return self
