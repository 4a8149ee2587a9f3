"""On this machine: the training step against timm, the front end, and what the commands take.

All *measured*, each in a process of its own while nothing else of the suite runs.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from benchmarks.record import replaced
from benchmarks.suite import host_jobs, host_pictures, host_tables
from benchmarks.suite.chapters import Cell, Chapter, Quantity, Scope, Section, Table
from benchmarks.suite.jobs import Job, Result, Results
from benchmarks.suite.markdown import table_markdown

__all__ = ["HOST"]

Row = Dict[str, Cell]

_STEP_ROUNDS, _FRONT_END_ROUNDS, _START_RUNS = 11, 11, 3
_MODELS = ("b0", "b2", "b4")
_STAGES = (2, 4, 8, 16)
_IPUS = (8, 4, 2)
_ALL_IPUS = 16
_BLOCKS = tuple(
    f"blocks.{stage}.{block}"
    for stage, depth in enumerate((1, 2, 2, 3, 3, 4, 1))
    for block in range(depth)
)
"""Blocks of EfficientNet-B0, in order."""
_MIB = 2**20
_QUIET = 0.85
"""Least share of wall time that commands compute on a machine with nothing else to do; the rest is
reading files."""


def _config(model: str) -> str:
    return f"paper/{model}-g16-lnpn-native.yml"


def _stages(number: int) -> List[str]:
    """Flags that cut B0 into so many stages of about as many blocks each; one replica."""
    cuts = [_BLOCKS[len(_BLOCKS) * stage // number] for stage in range(1, number)]
    settings = (
        f"pipeline.splits=[{', '.join(cuts)}]",
        "batching.replicas=1",
        "batching.gradient_accumulation=64",
    )
    return [word for each in settings for word in ("--set", each)]


# -- jobs -----------------------------------------------------------------------------------------


def _jobs(scope: Scope) -> List[Job]:
    if scope == "fast":  # all of it measures time
        return []
    return [
        *(_operations(model) for model in _MODELS),
        _steps(),
        _front_end(),
        _start(),
        *(_step_memory(net) for net in host_jobs.STEP_NETS),
        *(_costs(verb, model) for verb in ("simulate", "plan") for model in _MODELS),
    ]


def _steps() -> Job:
    """Another timm, or one where there was none, is another measurement."""
    try:
        timm = version("timm")
    except PackageNotFoundError:
        timm = ""
    return Job.of(host_jobs.training_steps, alone=True, rounds=_STEP_ROUNDS, timm=timm)


def _front_end() -> Job:
    return Job.of(host_jobs.front_end_overhead, alone=True, rounds=_FRONT_END_ROUNDS)


def _start() -> Job:
    return Job.of(host_jobs.start_up, alone=True, runs=_START_RUNS)


def _step_memory(net: str) -> Job:
    return Job.of(host_jobs.step_memory, alone=True, net=net)


def _operations(model: str) -> Job:
    return Job.of(host_jobs.traced_operations, config=_config(model))


def _costs(verb: str, model: str) -> Job:
    """Runs of a verb: ``cold``, ``warm``, for the planner ``again``; for B0 over IPUs as well,
    named by their number."""
    words = [verb, "--config", f"ipu_configs/{_config(model)}", "--json"]
    runs: List[Tuple[str, List[str]]] = [("cold", [])]
    if verb == "plan":
        runs += [("warm", ["--fresh"]), ("again", [])]
        over = [(str(ipus), ["--fresh", "--ipus", str(ipus)]) for ipus in _IPUS]
    else:
        runs += [("warm", [])]
        over = [(str(stages), _stages(stages)) for stages in _STAGES]
    if model == "b0":
        runs += over
    return Job.of(host_jobs.command_costs, alone=True, words=words, runs=runs)


# -- rows -----------------------------------------------------------------------------------------


def _step_rows(found: Optional[Result]) -> List[Row]:
    return [
        {
            "pair": each["name"],
            "ours": 1e3 * each["ours_s"],
            "theirs": 1e3 * each["theirs_s"],
            "ratio": each["ratio"],
            "low": each["quartiles"][0],
            "high": each["quartiles"][1],
            "target": each["target"],
            "reached": each["ratio"] >= each["target"],
        }
        for each in (found["ratios"] if found else ())
    ]


def _front_end_rows(found: Optional[Result]) -> List[Row]:
    if not found:
        return []
    row: Row = {
        "ours": 1e3 * found["front_end_s"],
        "loop": 1e3 * found["loop_s"],
        "overhead": 100 * found["median"],
        "low": 100 * found["quartiles"][0],
        "high": 100 * found["quartiles"][1],
        "target": 100 * found["target"],
        "reached": found["median"] <= found["target"],
    }
    return [row]


def _command_rows(results: Results) -> List[Row]:
    rows = []
    for verb in ("simulate", "plan"):
        for model in _MODELS:
            found = results.get(_costs(verb, model))
            if found:
                traced = results.get(_operations(model), {})
                row: Row = {"verb": verb, "network": model.upper(), "model": model}
                row["operations"] = traced.get("operations")
                for state in ("cold", "warm", "again"):
                    for key in ("wall_s", "cpu_s") if state in found else ():
                        row[f"{state}_{key}"] = found[state][key]
                row["peak"] = max(found[each]["peak_bytes"] for each in ("cold", "warm")) / _MIB
                rows.append(row)
    return rows


def _ipu_rows(results: Results) -> List[Row]:
    """B0 with the convolutions' plans remembered."""
    rows = []
    simulated, planned = (results.get(_costs(verb, "b0"), {}) for verb in ("simulate", "plan"))
    for stages in _STAGES:
        if str(stages) in simulated:
            rows.append(_ipu_row("simulate", stages, stages, 1, simulated[str(stages)]))
    traced = results.get(_operations("b0"))
    if "warm" in simulated and traced:
        stages, replicas = traced["stages"], traced["replicas"]
        row = _ipu_row("simulate", stages * replicas, stages, replicas, simulated["warm"])
        rows.append(row)
    for ipus in (*sorted(_IPUS), _ALL_IPUS):
        key = "warm" if ipus == _ALL_IPUS else str(ipus)
        if key in planned:
            rows.append(_ipu_row("plan", ipus, None, None, planned[key]))
    return rows


def _ipu_row(
    verb: str, ipus: int, stages: Optional[int], replicas: Optional[int], cost: Mapping[str, float]
) -> Row:
    return {
        "verb": verb,
        "ipus": ipus,
        "stages": stages,
        "replicas": replicas,
        "wall_s": cost["wall_s"],
        "cpu_s": cost["cpu_s"],
        "peak": cost["peak_bytes"] / _MIB,
    }


def _memory_rows(results: Results, commands: Sequence[Mapping[str, Cell]]) -> List[Row]:
    rows: List[Row] = []
    start = results.get(_start())
    if start:
        rows.append({"process": "nothing but the imports", "peak": start["peak_bytes"] / _MIB})
    for net, label in host_jobs.STEP_NETS.items():
        found = results.get(_step_memory(net))
        if found:
            rows.append({"process": f"training: {label}", "peak": found["peak_bytes"] / _MIB})
    rows += [
        {"process": f"{row['verb']}: {row['network']}", "peak": row["peak"]} for row in commands
    ]
    for row in rows if start else ():
        peak = row["peak"]
        assert start is not None and isinstance(peak, float)
        row["own"] = peak - start["peak_bytes"] / _MIB
    return rows


# -- what is shown --------------------------------------------------------------------------------


def _chapter(results: Results) -> Chapter:
    steps, front_end = results.get(_steps()), results.get(_front_end())
    commands, ipus = _command_rows(results), _ipu_rows(results)
    memory = _memory_rows(results, commands)
    step_rows, front_end_rows = _step_rows(steps), _front_end_rows(front_end)
    start = results.get(_start())
    start_s = start["wall_s"] if start else None
    tables = [
        Table(key, title, columns, rows, note)
        for key, title, columns, rows, note in (
            (
                "steps",
                "A training step of EfficientNet-B0",
                host_tables.STEPS,
                step_rows,
                host_tables.STEPS_NOTE,
            ),
            (
                "front-end",
                "The front end over a hand-written loop",
                host_tables.FRONT_END,
                front_end_rows,
                "",
            ),
            (
                "commands",
                "What simulate and plan take",
                host_tables.COMMANDS,
                commands,
                host_tables.COMMANDS_NOTE,
            ),
            (
                "ipus",
                "The same over numbers of IPUs: B0",
                host_tables.OVER_IPUS,
                ipus,
                host_tables.IPUS_NOTE,
            ),
            ("memory", "Peak of resident memory", host_tables.MEMORY, memory, ""),
        )
        if rows
    ]
    pictures = [
        *(host_pictures.steps(step_rows) if step_rows else ()),
        *(host_pictures.commands(commands, start_s) if commands else ()),
        *(host_pictures.over_ipus(ipus, start_s) if ipus else ()),
        *(host_pictures.memory(memory) if memory else ()),
    ]
    lead = _lead(steps, step_rows, front_end_rows, commands, start_s)
    quantities = _quantities(step_rows, front_end_rows, commands, results)
    return Chapter(lead, tables, pictures, quantities=quantities)


def _lead(
    steps: Optional[Result],
    step_rows: Sequence[Mapping[str, Any]],
    front_end: Sequence[Mapping[str, Any]],
    commands: Sequence[Mapping[str, Any]],
    start_s: Optional[float],
) -> str:
    if not (step_rows or front_end or commands):
        return (
            "Times on this machine: the training step against timm, the front end, and what "
            "simulate and plan take. Nothing of this was measured in this run."
        )
    said = ["Times and memory on this machine's CPU, measured while nothing else of the suite ran."]
    if steps:
        said += _said_of_steps(steps, step_rows)
    for row in front_end:
        said.append(
            f"A call of the IPU Model's PopTorch costs **{row['overhead']:+.1f} %** over a "
            f"hand-written loop's time, with quartiles of {row['low']:+.1f} and "
            f"{row['high']:+.1f} % (target: at most {row['target']:.0f} %, "
            f"{'reached' if row['reached'] else 'missed'})."
        )
    said += [sentence for verb in ("simulate", "plan") for sentence in _said_of(verb, commands)]
    if start_s is not None and commands:
        said.append(
            f"Of a simulation or a new plan, {start_s:.1f} s are Python importing torch and the "
            "IPU Model."
        )
    said += _said_of_noise(commands)
    said.append(
        "Times of commands are single runs, good for their order of magnitude. Nothing here says "
        "how fast an IPU is."
    )
    return " ".join(said)


def _said_of_steps(steps: Result, rows: Sequence[Mapping[str, Any]]) -> List[str]:
    said = []
    against = [row for row in rows if "timm" in row["pair"]]
    if steps["timm"] is None:
        said.append(
            "timm is not installed here, so nothing is compared with it; "
            "requirements-test.txt has it."
        )
    elif against:
        shown = " and ".join(f"**{row['ratio']:.2f}**" for row in against)
        said.append(f"Our training step of B0 is {shown} times as fast as timm's {steps['timm']} "
                    "(G1 with BN and G16 with GN).")  # fmt: skip
    reached = sum(bool(row["reached"]) for row in rows)
    said.append(
        f"{reached} of {len(rows)} ratios reach their targets, with torch {steps['torch']} on "
        f"{steps['threads']} thread{'s' * (steps['threads'] != 1)}."
    )
    return said


def _said_of(verb: str, commands: Sequence[Mapping[str, Any]]) -> List[str]:
    rows = [row for row in commands if row["verb"] == verb]
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    networks = f"{first['network']} to {last['network']}" if len(rows) > 1 else first["network"]

    def spans(key: str) -> str:
        values = [row[key] for row in rows]
        return f"{min(values):.1f} to {max(values):.1f} s"

    again = f", and {spans('again_wall_s')} when asked again" if verb == "plan" else ""
    return [
        f"{verb.capitalize()} takes **{spans('cold_wall_s')}** for {networks} when nothing is "
        f"remembered, {spans('warm_wall_s')} with the convolutions' plans{again}."
    ]


def _said_of_noise(commands: Sequence[Mapping[str, Any]]) -> List[str]:
    """A command that computes on one core all the time has as much CPU time as wall time."""
    wall, cpu = (sum(row[f"cold_{key}"] for row in commands) for key in ("wall_s", "cpu_s"))
    if not commands or cpu >= _QUIET * wall:
        return []
    return [
        f"**This machine was busy with something else**: the commands had a core for "
        f"{cpu / wall:.0%} of their time, so rely on no time or ratio here."
    ]


def _quantities(
    steps: Sequence[Mapping[str, Any]],
    front_end: Sequence[Mapping[str, Any]],
    commands: Sequence[Mapping[str, Any]],
    results: Results,
) -> List[Quantity]:
    named: List[Tuple[str, float, str]] = []
    named += [(f"step/{_slug(row['pair'])}", row["ratio"], "") for row in steps]
    named += [("front-end/overhead", row["overhead"], "%") for row in front_end]
    for row in commands:
        for state in ("cold", "warm", "again"):
            if f"{state}_wall_s" in row:
                name = f"{row['verb']}/{row['model']}/{state}"
                named.append((name, row[f"{state}_wall_s"], "s"))
        named.append((f"{row['verb']}/{row['model']}/peak-memory", row["peak"], "MiB"))
    for net in host_jobs.STEP_NETS:
        found = results.get(_step_memory(net))
        if found:
            named.append((f"training/{net}/peak-memory", found["peak_bytes"] / _MIB, "MiB"))
    return [Quantity(f"host/{name}", value, unit, "measured") for name, value, unit in named]


def _slug(text: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter == "+" else " " for letter in text.lower())
    return "-".join(kept.split())


def write(chapter: Chapter, docs: Path) -> None:
    """Put the tables into the page on how time is measured."""
    page = docs.parent / "benchmarks" / "README.md"
    lines = [chapter.lead, *(table_markdown(table) for table in chapter.tables)]
    text = replaced(page.read_text(encoding="utf-8"), "host", "\n\n".join(lines))
    page.write_text(text, encoding="utf-8")


HOST = Section("host", "On this machine", _jobs, _chapter, write)
