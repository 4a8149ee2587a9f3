"""Asking for the plan of a run: from memory, else from the planner."""

from dataclasses import replace
from typing import Optional

from app import backend
from app.config.schema import Run
from app.errors import ConfigError, NoPlanError
from app.ipu_model.memory import Misfit
from app.plan.answers import Answer, Answers, answer_key, answers_directory
from app.plan.runs import require_kept
from app.planner import Plan, report

__all__ = ["plan_run"]


def plan_run(run: Run, explain: bool = True, fresh: bool = False) -> Plan:
    """The plan that ``run.planning`` asks for; the same question is answered from memory.

    explain: also with moved cuts and other margins, which takes longer. fresh: plan anew.

    Raises:
        NoPlanError: nothing fits.
        ConfigError: the request contradicts itself, or the network cannot be built.
    """
    run = replace(run, plan="auto")
    answers = Answers(answers_directory())
    answer = None if fresh else _remembered(answers, run, explain)
    if answer is None:
        answer = _worked_out(run, explain)
        answers.store(answer_key(run, explain), answer)
    if isinstance(answer, Misfit):
        raise NoPlanError(report.refusal(answer).rstrip("\n"))
    require_kept(run, answer)
    return answer


def _remembered(answers: Answers, run: Run, explain: bool) -> Optional[Answer]:
    """An explained plan also answers who wants no explanation."""
    answer = answers.load(answer_key(run, True))
    if answer is None and not explain:
        answer = answers.load(answer_key(run, False))
    return answer


def _worked_out(run: Run, explain: bool) -> Answer:
    if backend.chosen() == "ipu":
        raise ConfigError(
            "plan: auto is worked out by the IPU Model, which cannot run beside the Poplar SDK in "
            "one process; run `python -m app plan` on the same configuration first, and the "
            "answer is taken from there"
        )
    from app.plan.request import work_out  # torch, and the networks

    return work_out(run, explain)
