# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Study a compiled step
#
# What does XLA make of a training step? This notebook compiles the step of a small VT-ADL from
# shapes alone, without data, and reads memory, cost, fusions, donation and HLO. Then it compares
# two variants, and compiles for a TPU slice if the TPU's compiler is installed (no TPU is needed).
# The same file runs as a script: `python notebooks/study_a_step.py`.

# %%
import importlib.util
import subprocess
import sys

SOURCE = ""  # on Colab: "git+https://..." of your copy of the repository, or an uploaded wheel
if "google.colab" in sys.modules and importlib.util.find_spec("vtadl_jax") is None:
    if not SOURCE:
        raise SystemExit("set SOURCE to the repository's address, as git+https://...")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE], check=True)

# %%
from vtadl_jax import base
from vtadl_jax.compiling import comparing, costs, hlo, sections, writing
from vtadl_jax.compiling.origin import Origins
from vtadl_jax.compiling.program import lower_step
from vtadl_jax.compiling.reading import read_step
from vtadl_jax.compiling.topology import find_target, has_tpu_compiler
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import parse

# %% [markdown]
# ## A small VT-ADL
#
# `base` gives all fields at their defaults, as in a config file; `parse` checks them. Change what
# you want to study.


# %%
def small_vtadl(**fields):
    c = base("vtadl")
    c.image_size, c.batch_size = (64, 64), 8
    c.model.vit.update(patch_size=8, width=64, depth=4, num_heads=4, mlp_dim=128)
    c.model.decoder.update(vector_dim=64, features=(16, 16, 8, 8))
    c.model.mdn.update(num_components=4, feature_dim=8)
    c.update_from_flattened_dict(fields)
    return parse(c.to_dict())


config = small_vtadl()

# %% [markdown]
# ## Lower and compile
#
# `lower_step` traces and lowers the function that training uses. 'local' are this machine's
# devices. `program.lowered` is JAX's own object, so everything that JAX offers for it works.

# %%
local = find_target("local")
program = lower_step(config, local, "train", images_per_device=8 // local.size or 1)
compiled = program.lowered.compile()
text = compiled.as_text()
print(f"{program.num_parameters:,} parameters, {program.images} images a step")
print(f"{len(program.lowered.as_text()):,} characters of StableHLO, {len(text):,} of HLO")

# %% [markdown]
# ## Memory and cost
#
# Arguments are the state and the batch, temporaries what a step needs besides. XLA's counts of
# operations and bytes are of the whole program; the backward pass is in it.

# %%
memory = compiled.memory_analysis()
for name in ("argument", "output", "alias", "temp"):
    print(f"{name:9} {getattr(memory, f'{name}_size_in_bytes') / 2**20:8.2f} MiB")
cost = compiled.cost_analysis()
print(f"{cost['flops'] / 1e9:.2f} GFLOP, {cost['bytes accessed'] / 2**20:.0f} MiB accessed")

# %% [markdown]
# ## Donation
#
# The step donates its state: each new buffer of the state takes the place of the old one. The
# header of the HLO lists the pairs. Outputs that are not among them are the loss terms.

# %%
module = hlo.parse(text)
outputs = len(module.computations[module.entry].root.arrays)
print(f"{module.num_aliased} of {outputs} outputs are in the buffers of donated inputs")

# %% [markdown]
# ## The most expensive fusions
#
# A fusion reads its operands and writes its result once; within, nothing goes through memory. On a
# CPU the compiler gives no estimate of time, so here they are ordered by the bytes that they read
# and write, times the loops around them. For a TPU, the last section has estimated cycles.


# %%
def traffic(found) -> int:
    """Bytes of an instruction's operands and result, for all its executions in a step."""
    names = found.computation.by_name
    read = sum(names[name].num_bytes for name in found.instruction.operands if name in names)
    return found.times * (read + found.instruction.num_bytes)


scheduled, _ = costs.schedule(module)
origins = Origins(module)
fusions = [found for found in scheduled if found.instruction.opcode == "fusion"]
fusions.sort(key=traffic, reverse=True)
print(f"{len(fusions)} fusions in the schedule")
for found in fusions[:8]:
    place = found.computation, found.instruction
    part = f"{origins.module(*place)}{' backward' * origins.backward(*place)}"
    result = costs.printed_shapes(found.instruction, most=1)
    line = f"{traffic(found) / 2**20:7.2f} MiB {found.times:2} x {part:34} {result:24}"
    print(line, origins.source(*place))

# %% [markdown]
# ## The HLO of one operation
#
# Every instruction has the path of modules that JAX gave it. Here is a product of the encoder's
# attention; change `WANTED` to follow another operation into the program.

# %%
WANTED = "attention"


def lines_of(wanted: str, opcode: str = "dot") -> list[str]:
    """Lines of the program's text of this opcode, with this text in their path."""
    return [
        line.strip()
        for line in text.splitlines()
        if f" {opcode}(" in line and wanted.lower() in line.partition("op_name=")[2].lower()
    ]


products = lines_of(WANTED)
print(f"{len(products)} products of {WANTED!r}")
for line in products[:3]:
    print(line[:400])

# %% [markdown]
# ## Compare two variants
#
# With `model.vit.remat` the backward pass recomputes the encoder's blocks instead of keeping their
# activations: more operations, less memory. Replace the field by another, for example
# `{"dtype": "bfloat16"}`.

# %%
VARIANT = {"model.vit.remat": True}
before = read_step(config, "stored", local, "train", program.images // local.size)
after = read_step(small_vtadl(**VARIANT), "variant", local, "train", program.images // local.size)
print(writing.terminal("before and after", str(VARIANT), comparing.comparison(before, after)))

# %% [markdown]
# ## For a TPU slice
#
# The TPU's compiler (`pip install 'vtadl_jax[tpu]'`, Linux) runs without a TPU. It adds estimated
# cycles for each instruction. `python -m vtadl_jax.compile --topology v5e:2x2` writes such a report
# of any config as a page.

# %%
if has_tpu_compiler():
    try:
        slice_of_four = find_target("v5e:2x2")
        reading = read_step(small_vtadl(dtype="bfloat16"), "small", slice_of_four, "train")
        tables = sections.sections(reading, num_images=209)
        print(writing.terminal(sections.title(reading), sections.subtitle(reading), tables))
    except UserError as error:  # another process has the compiler
        print(error)
else:
    print("the TPU's compiler is not installed: nothing is compiled for a TPU")
