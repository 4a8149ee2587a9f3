"""The convolution planner: how poplibs would lay a convolution out on one IPU, and its cost."""

from app.ipu_model.cost.convolution.methods import Candidate, Method
from app.ipu_model.cost.convolution.options import ConvOptions, DataType, Pass
from app.ipu_model.cost.convolution.params import ConvParams, canonical, conv_params, macs
from app.ipu_model.cost.convolution.passes import data_gradient, weight_gradient
from app.ipu_model.cost.convolution.plan import ConvPlan, CycleBreakdown, Partition
from app.ipu_model.cost.convolution.planning import plan, plan_many

__all__ = [
    "Candidate",
    "ConvOptions",
    "ConvParams",
    "ConvPlan",
    "CycleBreakdown",
    "DataType",
    "Method",
    "Partition",
    "Pass",
    "canonical",
    "conv_params",
    "data_gradient",
    "macs",
    "plan",
    "plan_many",
    "weight_gradient",
]
