"""Fit or misfit, and the levers."""

from dataclasses import replace
from typing import Dict, List, Tuple

import pytest

from app.ipu_model.graph import Element
from app.ipu_model.memory import (
    IpuMemory,
    Lever,
    Misfit,
    Term,
    levers,
    misfit,
    render_out_of_memory,
)
from app.ipu_model.program import Execution, OptimizerState, ProgramError

TILE_BYTES, REGION0_BYTES = 1000, 300


def memory(peak: int, ipu: int = 0, code: int = 100, terms: Tuple[Term, ...] = ()) -> IpuMemory:
    return IpuMemory(ipu, 7, peak, code, peak - code, code, code, 0, 0, terms, (), (), ())


def judged(*memories: IpuMemory) -> "Misfit | None":
    return misfit(memories, TILE_BYTES, REGION0_BYTES)


def test_a_program_that_fills_every_byte_fits() -> None:
    assert judged(memory(1000, code=300), memory(999)) is None
    assert judged() is None


def test_the_worst_ipu_is_named_with_its_terms() -> None:
    terms = (Term("parameters", 1200, True),)
    found = judged(memory(1100), memory(1200, ipu=1, terms=terms), memory(900, ipu=2))
    assert found == Misfit(1, 7, 1200, 1000, terms, (), "tile memory")


def test_code_must_fit_in_its_region_and_its_terms_add_up() -> None:
    control = Term("control code", 60, True)
    found = judged(memory(500), memory(400, ipu=1, code=301, terms=(control,)))
    assert found is not None
    assert (found.resource, found.ipu, found.demand_bytes) == ("executable memory", 1, 301)
    assert sum(term.tile_bytes for term in found.terms) == 301
    assert control in found.terms


@pytest.mark.parametrize(
    ("resource", "text"),
    [
        (
            "tile memory",
            "Memory allocation error : Out of memory on tile 7: 876476 bytes used but tiles only "
            "have 638976 bytes of memory",
        ),
        (
            "executable memory",
            "Memory allocation error : Out of memory on tile 7: 876476 bytes of code but tiles "
            "only have 638976 bytes of executable memory",
        ),
    ],
)
def test_the_message_is_the_compilers(resource: str, text: str) -> None:
    found = Misfit(0, 7, 876476, 638976, (), (), resource)
    assert render_out_of_memory(found) == text


class Program:
    """Needs so many bytes per sample and state; refuses some kinds of recomputation."""

    def __init__(self, refused: Tuple[str, ...] = ()) -> None:
        self.refused = refused
        self.tried: List[Execution] = []

    def memories(self, execution: Execution) -> Tuple[IpuMemory, ...]:
        if execution.recomputation in self.refused:
            raise ProgramError(f"recomputation: {execution.recomputation} needs a pipeline")
        self.tried.append(execution)
        sizes = self.sizes(execution).items()
        terms = tuple(Term(name, size, True) for name, size in sizes if size)
        return (memory(sum(term.tile_bytes for term in terms), terms=terms),)

    @staticmethod
    def sizes(execution: Execution) -> Dict[str, int]:
        kept = {"none": 100, "norm_only": 90, "standard": 60, "pipeline": 50, "all": 20}
        shards = execution.replicas if execution.replicated_tensor_sharding else 1
        sums = 200 if execution.accumulator_element is Element.FLOAT else 100
        state = 0 if execution.state_off_chip else 400 // shards
        return {
            "activations of stem": kept[execution.recomputation] * execution.micro_batch,
            "optimiser state": state if execution.training else 0,
            "accumulators": sums if execution.gradient_accumulation > 1 else 0,
            "temporaries of conv": int(100 * min(execution.available_memory_proportion)),
        }

    def levers(self, execution: Execution) -> Tuple[Lever, ...]:
        found = judged(*self.memories(execution))
        assert found is not None
        return levers(self.memories, execution, found, TILE_BYTES, REGION0_BYTES)


# 8 x 100 + 400 + 200 + 60 = 1460 bytes
TRAINING = Execution(
    micro_batch=8,
    gradient_accumulation=4,
    replicas=4,
    optimizer=OptimizerState("adam", 2),
    available_memory_proportion=(0.6,),
)


def test_each_lever_says_what_it_saves_and_whether_that_is_enough() -> None:
    assert Program().levers(TRAINING) == (
        Lever("recomputation all", 8 * 80, True),
        Lever("micro-batch 8 -> 2", 6 * 100, True),
        Lever("optimiser state off chip", 400, False),
        Lever("replicated tensor sharding of the optimiser state", 300, False),
        Lever("gradient accumulators in half precision", 100, False),
        Lever("available memory proportion 0.15", 45, False),
    )


def test_inference_can_change_its_micro_batch_and_its_temporaries_alone() -> None:
    inference = Execution(mode="inference", micro_batch=12)  # 1200 + 60 bytes
    assert Program().levers(inference) == (
        Lever("micro-batch 12 -> 6", 600, True),
        Lever("available memory proportion 0.15", 45, False),
    )


def test_steps_after_the_first_that_suffices_are_not_tried() -> None:
    program = Program()
    program.levers(TRAINING)
    assert [each.micro_batch for each in program.tried if each.micro_batch < 8] == [4, 2]


def test_a_change_that_the_program_refuses_is_left_out() -> None:
    found = Program(refused=("pipeline", "all")).levers(TRAINING)
    assert Lever("recomputation standard", 8 * 40, False) in found
    assert [lever.change for lever in found if "recomputation" in lever.change] == [
        "recomputation standard"
    ]


def test_what_is_in_use_already_is_not_tried_again() -> None:
    used = replace(
        TRAINING,
        micro_batch=1,
        gradient_accumulation=1,
        recomputation="all",
        replicated_tensor_sharding=True,
        available_memory_proportion=(0.1,),
        optimizer=OptimizerState("adam", 2),
    )
    program = Program()
    found = Misfit(0, 7, 1001, TILE_BYTES, program.memories(used)[0].terms, ())
    program.tried.clear()
    levers(program.memories, used, found, TILE_BYTES, REGION0_BYTES)
    assert program.tried == [replace(used, state_off_chip=True)]


def test_changes_that_save_nothing_are_left_out() -> None:
    wasted = Misfit(0, 7, 1200, TILE_BYTES, (Term("parameters", 1200, True),), ())

    def unchanged(execution: Execution) -> Tuple[IpuMemory, ...]:
        return (memory(1200),)

    assert levers(unchanged, TRAINING, wasted, TILE_BYTES, REGION0_BYTES) == ()
