"""The parser of XLA's text: on a module written by hand, and on the installed XLA's output."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests.compiling.hlo_text import MODULE
from vtadl_jax.compiling import costs, hlo


@pytest.fixture(scope="module")
def module():
    return hlo.parse(MODULE)


def instruction(module, computation, name):
    return module.computations[computation].by_name[name]


def test_computations_and_instructions_are_all_there(module):
    assert module.entry == "main"
    assert list(module.computations) == [
        *("add", "fused", "body", "begin", "end", "scatter", "condition", "main")
    ]
    assert [i.opcode for i in module.computations["condition"].instructions] == [
        "constant",
        "parameter",
        "get-tuple-element",
        "compare",
    ]
    assert module.computations["condition"].root.name == "less"
    assert module.num_aliased == 2


def test_types_survive_their_layouts(module):
    loop = instruction(module, "main", "loop")
    assert loop.opcode == "while"
    assert loop.operands == ("start",)
    assert loop.arrays == [("s32", ()), ("bf16", (8, 128))]
    assert loop.num_bytes == 4 + 8 * 128 * 2
    assert loop.called == {"condition": ["condition"], "body": ["body"]}


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("pred", 8), ("bf16", 16), ("f32", 32), ("u8", 8), ("f8e4m3fn", 8), ("token", 0), ("s4", 4)],
)
def test_bytes_of_element_types(dtype, size):
    assert hlo.array_bytes(dtype, (4, 6)) == 24 * size // 8


def test_estimates_and_missing_estimates(module):
    assert instruction(module, "body", "fusion.1").cycles == 1000
    assert instruction(module, "main", "x.1").cycles is None
    assert instruction(module, "main", "unknown").cycles is None


def test_stacks_run_from_the_innermost_call_outwards(module):
    frames = module.stack(instruction(module, "fused", "dot"))
    assert [(f.file, f.line, f.function) for f in frames] == [
        ("/lib/flax/linen/linear.py", 7, "Dense.__call__"),
        ("/checkout/vtadl_jax/networks/vit.py", 93, "PatchViT.__call__"),
    ]
    assert module.stack(instruction(module, "main", "copy.1")) == ()


def test_text_without_an_entry_is_rejected():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule nothing\n")


def test_the_installed_xlas_text_is_parsed():
    def step(x):
        return jax.lax.fori_loop(0, 5, lambda _, y: jnp.sin(y @ x), x).sum()

    text = jax.jit(step).lower(jnp.ones((16, 16))).compile().as_text()
    module = hlo.parse(text)
    opcodes = {i.opcode for i in module.instructions()}
    assert {"while", "parameter", "constant"} <= opcodes
    # Every named operand exists in its computation.
    for computation in module.computations.values():
        for found in computation.instructions:
            assert set(found.operands) <= computation.by_name.keys()
    # By file name: a program from the compile cache may come from another checkout.
    names = {Path(f.file).name for i in module.instructions() for f in module.stack(i)}
    assert Path(__file__).name in names


GPU = """HloModule jit_f

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %a = f32[8]{0} fusion(%p), kind=kLoop, backend_config={"reification_cost":[\
{"end_to_end_cycles":16.5,"exec_time_us":0.008,"name":""},\
{"end_to_end_cycles":0,"exec_time_us":0.008,"name":"sol"}]}
  %b = f32[8]{0} fusion(%a), kind=kCustom, backend_config={"reification_cost":[\
{"end_to_end_cycles":521100519803.3,"exec_time_us":263182078.1,"name":""},\
{"end_to_end_cycles":4910.9,"exec_time_us":2.5,"name":"indexing-cost-model"}]}
  %d = f32[8]{0} custom-call(%b), custom_call_target="__cublas$gemm"
  ROOT %c = f32[8]{0} fusion(%d), kind=kLoop, backend_config={"reification_cost":[]}
}
"""


def test_estimates_for_gpus_are_those_of_indexing_where_there_are_any():
    module = hlo.parse(GPU)
    found = {i.name: i.cycles for i in module.instructions()}
    assert (found["a"], found["b"], found["c"]) == (16, 4911, None)
    scheduled, _ = costs.schedule(module)
    assert costs.count_library_calls(scheduled) == 1
    assert costs.cycles(scheduled)["without_estimate"] == 1
