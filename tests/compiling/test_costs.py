"""Cycles, collectives and their origins, counted by hand on a small module."""

import dataclasses

import pytest

from tests.compiling.hlo_text import MODULE
from vtadl_jax.compiling import collectives, costs, hlo
from vtadl_jax.compiling.origin import Origins, is_backward, module_of, place_of


@pytest.fixture(scope="module")
def module():
    return hlo.parse(MODULE)


@pytest.fixture(scope="module")
def scheduled(module):
    return costs.schedule(module)[0]


def test_loop_bodies_count_as_often_as_they_run(module, scheduled):
    assert costs.schedule(module)[1] == 0
    times = {s.instruction.name: s.times for s in scheduled}
    assert times["fusion.1"] == 6
    assert times["less"] == 7
    assert times["copy.1"] == 1
    assert "dot" not in times  # part of a fusion, which has one estimate
    # fusion 1000 + add 10, six times, and a copy.
    expected = {"total": 6 * 1010 + 300, "once": 1010 + 300, "without_estimate": 4}
    assert costs.cycles(scheduled) == expected


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    changed = hlo.parse(MODULE.replace("direction=LT", "direction=GT"))
    scheduled, unknown = costs.schedule(changed)
    assert unknown == 1
    assert costs.cycles(scheduled)["total"] == 1010 + 300


def test_programs_without_estimates_have_no_cycles():
    plain = hlo.parse(MODULE.replace("estimated_cycles", "other"))
    assert costs.cycles(costs.schedule(plain)[0])["total"] is None


def test_a_fusion_is_named_by_the_product_in_it(module, scheduled):
    origins = Origins(module)
    found = costs.most_expensive(origins, scheduled, 1)[0]
    assert found["name"] == "fusion.1"
    assert found["module"] == "encoder/blocks/qkv"
    assert found["backward"]
    assert found["source"] == "networks/vit.py:93"
    assert (found["cycles"], found["times"]) == (6000, 6)


def test_an_instruction_without_a_name_has_its_operands_name(module, scheduled):
    modules = costs.by_module(Origins(module), scheduled)
    # The copy reads the loop's result; the counter's addition has no named operand.
    assert modules["encoder"] == {"forward": 300, "backward": 0}
    assert modules["encoder/blocks/qkv"] == {"forward": 0, "backward": 6000}
    assert sum(sum(ways.values()) for ways in modules.values()) == 6360


def read_collectives(module, scheduled):
    there = collectives.find_collectives(module, scheduled)
    return {c["name"]: c for c in collectives.tabulate(Origins(module), there, 8)}


def test_collectives_in_fusions_are_counted_once_each(module, scheduled):
    found = read_collectives(module, scheduled)
    assert "weights.1" not in found  # the end of a collective that was counted at its start
    size = 64 * 8 * 4
    gather, scatter = found["weights"], found["summed"]
    assert (gather["kind"], gather["bytes"], gather["wire_bytes"]) == (
        "all-gather",
        size,
        size * 3 / 4,
    )
    assert (scatter["kind"], scatter["bytes"]) == ("reduce-scatter", size)
    assert scatter["wire_bytes"] == size * 3 / 4
    (small,) = (i for i in module.computations["body"].instructions if i.name == "fusion.1")
    large = dataclasses.replace(small, type="f32[128,128]{1,0}")
    assert [collectives.carries("all-gather", [i]) for i in (small, large)] == ["sums", "weights"]
    assert collectives.carries("all-reduce", [large]) == "gradients"


def test_collectives_count_bytes_groups_and_executions(module, scheduled):
    found = read_collectives(module, scheduled)
    looped, gather, sums = (found[n] for n in ("all-reduce.1", "gather", "all-reduce.2"))
    size = 8 * 128 * 2
    assert (looped["times"], looped["group_size"], looped["bytes"]) == (6, 4, 6 * size)
    assert looped["wire_bytes"] == 6 * size * 2 * 3 / 4
    assert looped["modules"] == ["encoder/blocks/qkv"]
    assert (gather["group_size"], gather["bytes"]) == (4, 4 * size)
    assert gather["wire_bytes"] == 3 * size
    assert (sums["group_size"], sums["arrays"], sums["bytes"]) == (2, 2, 8)
    assert sums["carries"] == "sums"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups={{0,1,2,3}}", 4),
        ("replica_groups={{0,2},{1,3}}", 2),
        ("replica_groups=[1,256]<=[256]", 256),
        ("replica_groups=[16,2]<=[2,16]T(1,0)", 2),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=8] {'axis_1'}", 8),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=8] {'axis_0':(1)2,'axis_1'}", 16),
        ("replica_groups={}", 32),
    ],
)
def test_group_sizes_in_every_printed_format(text, size):
    assert collectives.group_size(text, 32) == size


@pytest.mark.parametrize(
    ("op_name", "module"),
    [
        ("jit(train_step)/transpose(jvp(VTADL))/decoder/layer4/conv", "decoder/layer4"),
        ("jit(f)/jvp(Net)/encoder/while/body/closed_call/blocks/qkv/dot", "encoder/blocks/qkv"),
        ("jit(train_step)/jvp(VTADL)/mixture/mixture._conditional/loc/add", "mixture/loc"),
        ("jit(train_step)/jvp()/cond/branch_0_fun/mbchw,vw->mbchv/dot_general", ""),
        ("jit(train_step)/optimizer/add", "optimizer"),
        ("jit(f)/jit(clip)/min", ""),
        ("jit(f)/mixture/vmap(jit(_normal))/add", "mixture"),
        ("jit(f)/decoder/layer1/reshape;jit(f)/decoder/layer1/add", "decoder/layer1"),
        ("state.params['mixture']", ""),
    ],
)
def test_modules_are_read_from_jaxs_paths(op_name, module):
    assert module_of(op_name) == module
    assert is_backward(op_name) == ("transpose" in op_name)


def test_places_are_short():
    frame = hlo.Frame("/somewhere/vtadl_jax/ops/ssim.py", 3, "f")
    assert place_of(frame) == "ops/ssim.py:3"
    assert place_of(hlo.Frame("/lib/optax/_src/update.py", 42, "f")) == "_src/update.py:42"
    assert place_of(None) == ""


def test_every_instruction_that_takes_time_is_listed(module, scheduled):
    found = {one["name"]: one for one in costs.instructions(Origins(module), scheduled)}
    assert found["fusion.1"]["cycles"] == 1000
    assert found["fusion.1"]["times"] == 6
    assert found["fusion.1"]["module"] == "encoder/blocks/qkv"
    assert found["fusion.1"]["backward"]
    opcodes = {one["opcode"] for one in found.values()}
    assert not opcodes & {"parameter", "tuple", "while", "constant"}


SENDS = """HloModule jit_f

ENTRY %main (p: f32[256,128]) -> f32[256,128] {
  %p = f32[256,128]{1,0} parameter(0)
  %t = token[] after-all()
  %send = (f32[256,128]{1,0}, u32[], token[]) send(%p, %t), channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %other = (f32[256,128]{1,0}, u32[], token[]) send(%p, %t), channel_id=3
  ROOT %copy = f32[256,128]{1,0} copy(%p)
}
"""


def test_bytes_between_slices_are_those_of_host_transfers():
    scheduled, _ = costs.schedule(hlo.parse(SENDS))
    size = 4 * 256 * 128
    found = collectives.between_slices(scheduled, 4)
    assert (found["executed"], found["bytes"]) == (1, size)
    assert found["wire_bytes"] == pytest.approx(2 * 3 / 4 * size)
    gathered = hlo.parse(SENDS.replace("ALL_REDUCE", "ALL_GATHER"))
    found = collectives.between_slices(costs.schedule(gathered)[0], 4)
    assert found["wire_bytes"] == 3 * size
