"""Facts about the train step's programs from the TPU's compiler; no TPU is needed."""

import json

import jax
import pytest

from tests.compiling import programs
from tests.factory import tiny_config
from vtadl_jax.compiling import collectives, costs, hlo, xla_flags
from vtadl_jax.compiling.origin import module_of
from vtadl_jax.compiling.program import lower_step
from vtadl_jax.compiling.topology import find_target, has_tpu_compiler
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.runtime import sharding
from vtadl_jax.training.optimizer import make_optimizer
from vtadl_jax.training.state import create_state

pytestmark = [
    pytest.mark.tpu_compile,
    pytest.mark.skipif(
        not has_tpu_compiler(), reason="needs the TPU's compiler: pip install 'vtadl_jax[tpu]'"
    ),
    pytest.mark.xdist_group("tpu_compile"),
]
TOLERANCE = 0.03
PAPER, DEVICE = "paper-v5e-2x2", "device-statistics-v5e-2x2"


@pytest.fixture(scope="module")
def paper():
    reading, text = programs.compiled(PAPER)
    return reading, hlo.parse(text)


@pytest.fixture(scope="module")
def golden():
    path = programs.golden_file()
    if not path.is_file():
        pytest.skip(f"there is no {path.name}: {programs.RENEW} makes it")
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["programs"]


def close(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            close(found[name], expected[name])
    else:
        assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", [PAPER, DEVICE])
def test_programs_match_their_golden_summaries(name, golden):
    if name not in golden:
        pytest.skip(f"no golden summary of {name}: {programs.RENEW} makes it")
    close(programs.summary(programs.compiled(name)[0]), golden[name])


@pytest.mark.slow
def test_the_paper_config_keeps_to_its_budget(paper):
    reading, _ = paper
    assert reading["programs"] == 1
    assert reading["cycles"]["total"] <= 12e6
    assert reading["loops_of_unknown_length"] == 0
    assert reading["memory"]["temporary"] <= 700 * 2**20


@pytest.mark.slow
def test_every_buffer_of_the_state_is_donated(paper):
    reading, _ = paper
    config = programs.paper_config()
    detector, tx = make_detector(config), make_optimizer(config.optimizer, 10)
    state = jax.eval_shape(lambda: create_state(detector, tx, 0))
    assert reading["aliased_outputs"] == len(jax.tree.leaves(state))


@pytest.mark.slow
def test_no_activation_is_gathered(paper):
    reading, module = paper
    scheduled, _ = costs.schedule(module)
    there = collectives.find_collectives(module, scheduled)
    assert collectives.activations_gathered(there, reading["program"]["images"]) == []
    gathered = [c for c in reading["collectives"] if c["kind"] == "all-gather"]
    # Weights with a sharded update, each once.
    assert {c["carries"] for c in gathered} == {"weights", "sums"}
    assert sum(c["bytes"] for c in gathered) <= 1.05 * reading["program"]["parameter_bytes"]


@pytest.mark.slow
def test_devices_exchange_no_more_than_the_gradients(paper):
    reading, _ = paper
    totals, config = reading["collective_totals"], reading["program"]
    # Gradients are summed, in bfloat16 if their product was; updated weights are gathered in
    # float32.
    assert totals["wire_bytes"] <= 2 * 1.05 * config["parameter_bytes"]


@pytest.mark.slow
def test_products_are_bfloat16_and_sum_in_float32_where_it_is_meant(paper):
    _, module = paper
    seen = set()
    for computation in module.computations.values():
        for instruction in computation.instructions:
            if instruction.opcode not in ("convolution", "dot"):
                continue
            name = module_of(instruction.op_name)
            ((result, _),) = instruction.arrays
            operands = {
                computation.by_name[o].arrays[0][0]
                for o in instruction.operands
                if o in computation.by_name
            }
            if name.startswith(("encoder/blocks", "decoder/layer")):
                assert operands <= {"bf16", "f32"}, instruction.name
                assert "bf16" in operands, (name, instruction.name)
                seen.add(name.split("/")[0])
            # Inputs of a density leave the matrix unit unrounded.
            if name.startswith("mixture/") and "transpose(" not in instruction.op_name:
                assert result == "f32", (name, instruction.name)
                seen.add("mixture")
            if name == "ssim":
                assert operands == {"f32"}, instruction.name
                seen.add(name)
    assert seen == {"encoder", "decoder", "mixture", "ssim"}


@pytest.mark.slow
def test_densities_and_reductions_over_components_are_float32(paper):
    _, module = paper
    opcodes = set()
    for computation in module.computations.values():
        for instruction in computation.instructions:
            if module_of(instruction.op_name) != "mixture":
                continue
            if instruction.opcode in ("exponential", "log", "log-plus-one", "divide", "rsqrt"):
                assert [dtype for dtype, _ in instruction.arrays] == ["f32"], instruction.name
                opcodes.add(instruction.opcode)
    assert {"exponential", "log", "divide"} <= opcodes


@pytest.mark.slow
def test_a_data_parallel_step_makes_at_most_three_collectives():
    reading, _ = programs.compiled(DEVICE)
    assert reading["program"]["num_devices"] == 4
    assert 1 <= reading["collective_totals"]["executed"] <= 3
    assert {c["kind"] for c in reading["collectives"]} == {"all-reduce"}
    # Gradients, metrics and running statistics; together they contain all parameters.
    assert reading["collective_totals"]["bytes"] >= 2 * reading["program"]["num_parameters"]


def test_a_programs_size_does_not_depend_on_the_depth():
    target = find_target("v5e:2x2")
    sizes = set()
    for depth in (2, 7):
        config = tiny_config(model__vit__depth=depth, dtype="bfloat16")
        text = lower_step(config, target, "train", 8).lowered.as_text()
        sizes.add(text.count("\n"))
    assert len(sizes) == 1


@pytest.mark.parametrize(
    "name",
    [
        "v4:2x2x1", "v5e:4x4", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1", "2*v5e:2x2", "2*tpu7x:2x2x1",
    ],
)  # fmt: skip
def test_topologies_are_described(name):
    target = find_target(name)
    cores = 2 if "v4" in name or "tpu7x" in name else 1
    chips = 16 if "4x4" in name else 8 if name.startswith("2*") else 4
    assert target.size == chips * cores
    assert target.chip is not None
    assert target.chip.cores == cores


def test_a_group_of_a_mesh_is_of_one_slice():
    target = find_target("2*v5e:2x2")
    mesh = sharding.make_mesh(-1, 4, target.devices)
    assert mesh.shape == {"data": 2, "fsdp": 4}
    assert [{d.slice_index for d in group} for group in mesh.devices] == [{0}, {1}]
    with pytest.raises(UserError, match="a slice has 4 devices, and a group must be of one slice"):
        sharding.make_mesh(-1, 8, target.devices)
    with pytest.raises(UserError, match="the mesh must use all"):
        sharding.make_mesh(1, 4, target.devices)


def test_sums_over_slices_are_counted_apart():
    target = find_target("2*v5e:2x2")
    mesh = sharding.make_mesh(-1, 1, target.devices)
    x = jax.ShapeDtypeStruct((8, 256, 128), "float32", sharding=sharding.batch_sharding(mesh))
    summed = jax.jit(lambda x: x.sum(0), out_shardings=sharding.replicated(mesh))
    scheduled, _ = costs.schedule(hlo.parse(summed.lower(x).compile().as_text()))
    found = collectives.between_slices(scheduled, sharding.num_slices(target.devices))
    # Each of a slice's four chips sends its quarter of the sum.
    assert found == {
        "instructions": 1, "executed": 1, "bytes": 256 * 128, "wire_bytes": 256 * 128,
    }  # fmt: skip


@pytest.mark.parametrize("flags", [{"xla_tpu_rwb_fusion": False}, {"xla_tpu_nope": 1}])
def test_flags_are_tried_on_the_slice(flags):
    known = "xla_tpu_nope" not in flags
    assert xla_flags.is_known(find_target("v5e:2x2"), flags) == known
