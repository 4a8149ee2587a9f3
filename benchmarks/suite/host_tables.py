"""The tables' columns and notes of what was measured on this machine."""

from benchmarks.suite.chapters import Column

__all__ = [
    "COMMANDS",
    "COMMANDS_NOTE",
    "FRONT_END",
    "IPUS_NOTE",
    "MEMORY",
    "OVER_IPUS",
    "STEPS",
    "STEPS_NOTE",
]

_RATIO = ",.3f"
STEPS = (
    Column("pair", "pair"),
    Column("ours", "ours", "measured", "ms", ",.0f"),
    Column("theirs", "theirs", "measured", "ms", ",.0f"),
    Column("ratio", "ours is × as fast", "measured", "", _RATIO),
    Column("low", "lower quartile", "measured", "", _RATIO),
    Column("high", "upper quartile", "measured", "", _RATIO),
    Column("target", "target: at least", form=".2f"),
    Column("reached", "reached"),
)
FRONT_END = (
    Column("ours", "front end", "measured", "ms", ",.0f"),
    Column("loop", "loop", "measured", "ms", ",.0f"),
    Column("overhead", "overhead", "measured", "%", "+.1f"),
    Column("low", "lower quartile", "measured", "%", "+.1f"),
    Column("high", "upper quartile", "measured", "%", "+.1f"),
    Column("target", "target: at most", unit="%", form=".0f"),
    Column("reached", "reached"),
)
COMMANDS = (
    Column("verb", "command"),
    Column("network", "network"),
    Column("operations", "operations traced", "counted", "", ",.0f"),
    Column("cold_wall_s", "cold", "measured", "s", ".1f"),
    Column("cold_cpu_s", "cold, CPU time", "measured", "s", ".1f"),
    Column("warm_wall_s", "warm", "measured", "s", ".1f"),
    Column("warm_cpu_s", "warm, CPU time", "measured", "s", ".1f"),
    Column("again_wall_s", "asked again", "measured", "s", ".1f"),
    Column("peak", "peak memory", "measured", "MiB", ",.0f"),
)
OVER_IPUS = (
    Column("verb", "command"),
    Column("ipus", "IPUs", form=".0f"),
    Column("stages", "stages", form=".0f"),
    Column("replicas", "replicas", form=".0f"),
    Column("wall_s", "time", "measured", "s", ".1f"),
    Column("cpu_s", "CPU time", "measured", "s", ".1f"),
    Column("peak", "peak memory", "measured", "MiB", ",.0f"),
)
MEMORY = (
    Column("process", "process"),
    Column("peak", "peak", "measured", "MiB", ",.0f"),
    Column("own", "beyond the imports", "derived", "MiB", "+,.0f"),
)
STEPS_NOTE = (
    "160 px, batch 8, float32: forward, backward and one SGD update with momentum. The contestants "
    "of a pair take turns step by step; the ratio is the median of the turns' ratios. Ours runs "
    "through the IPU Model's PopTorch, timm in a plain loop, in the faster memory layout."
)
COMMANDS_NOTE = (
    "G16, LN+PN, native resolution, as in `ipu_configs/paper`. Cold: nothing is remembered. Warm: "
    "the convolutions' plans are; the planner plans anew. Asked again: the planner answers from "
    "memory. Single runs, each a fresh process that imports all it needs; operations are those of "
    "the traced forward graph."
)
IPUS_NOTE = (
    "Convolutions' plans remembered. Simulate: one replica cut into more and more stages, and the "
    "file's own stages and replicas. Plan: as many IPUs as it may use at most."
)
