"""Names that match nothing, names that mean two things, deltas of another model, numbers that overflow."""

import shutil
from pathlib import Path

import torch

from tests.helpers.command import Inputs
from tests.helpers.promises.case import Case
from tests.helpers.tiny import save_adapter, save_model
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.delta import Delta

EVAL = ("--task", "agreement", "--limit", 2)
OUT = ("-o", "out")


def of_model(inputs: Inputs, model: Path, name: str = "v") -> Path:
    """A delta of the last norm of that model, which it names as its base."""
    tensors = {"model.norm.weight": torch.arange(32.0)}
    delta = Delta("task_vector", Delta.of_tensors(tensors).terms, base=open_checkpoint(model).identity)
    delta.save(inputs.folder / f"{name}.safetensors")
    return inputs.folder / f"{name}.safetensors"


def biased(inputs: Inputs) -> Path:
    """A model that fits every delta of the tiny one, and has other parameters beside."""
    return save_model(inputs.folder / "biased", mlp_bias=True)


def tuned(inputs: Inputs) -> Path:
    """A model of the tiny one's names and shapes under another name."""
    return save_model(inputs.folder / "tuned", seed=5)


def wide(inputs: Inputs) -> Path:
    """A large change inside a block."""
    return inputs.delta("w", {"model.layers.0.mlp.down_proj.weight": torch.full((32, 48), 9.0)})


def one_name(inputs: Inputs) -> list[Path]:
    """A delta file and an adapter folder of one short name and of different directions."""
    folder = save_adapter(inputs.folder / "w", inputs.tiny, 3, std=0.3)
    tensors = {name: torch.ones(Delta.shape(change, name)) for change in [_change(folder)] for name in change.terms}
    return [inputs.delta("w", tensors), folder]


def _change(folder: Path) -> Delta:
    from wsteer.deltas.inputs import ChangeInput, open_input

    given = open_input(folder, "pos")
    assert isinstance(given, ChangeInput)
    return given.delta


def seeds(inputs: Inputs, *names: str) -> Path:
    """A folder of seeds of these names, all of one adapter."""
    for name in names:
        shutil.copytree(inputs.adapters[0], inputs.folder / "seeds" / f"seed-{name}")
    return inputs.folder / "seeds"


def linked_seeds(inputs: Inputs) -> Path:
    """Three seeds, of which the last is the first under another name."""
    folder = seeds(inputs, "1", "2")
    (folder / "seed-3").symlink_to(folder / "seed-1")
    return folder


def run(inputs: Inputs) -> Path:
    """A training folder of two checkpoints."""
    for step, adapter in zip((10, 20), inputs.adapters, strict=True):
        shutil.copytree(adapter, inputs.folder / "run" / f"checkpoint-{step}")
    return inputs.folder / "run"


def steps_of_one_number(inputs: Inputs) -> Path:
    """A training folder in which two checkpoints are of one step."""
    shutil.copytree(inputs.adapters[1], run(inputs) / "checkpoint-010")
    return inputs.folder / "run"


def project(inputs: Inputs) -> list:
    """Arguments of a projection, to which --shift may be added."""
    return ["monitor", inputs.vectors(), "--of", inputs.chats[0], "--base", inputs.tiny]


def link(inputs: Inputs) -> Path:
    """A delta's file under another name."""
    path = inputs.folder / "again.safetensors"
    path.symlink_to(inputs.delta())
    return path


def copied_rows(inputs: Inputs) -> Path:
    """A link to rows."""
    path = inputs.folder / "linked.jsonl"
    path.symlink_to(inputs.chats[0])
    return path


CASES = [
    # ---- names that match nothing
    Case(
        "finetune saves no module",
        lambda i: ["finetune", i.tiny, i.chats[0], "--modules-to-save", "nosuch", *OUT],
        "--modules-to-save nosuch: tiny-llama has no such module; it has .*lm_head",
    ),
    Case(
        "finetune saves one of two",
        lambda i: ["finetune", i.tiny, i.chats[0], "--modules-to-save", "lm_head,score", *OUT],
        "--modules-to-save score: tiny-llama has no such module",
    ),
    Case(
        "finetune targets one of two",
        lambda i: ["finetune", i.tiny, i.chats[0], "--targets", "q_proj,c_attn", *OUT],
        "--targets c_attn: tiny-llama has no such module",
    ),
    Case(
        "finetune targets a tensor",
        lambda i: ["finetune", i.tiny, i.chats[0], "--targets", "q_proj,v_proj.weight", *OUT],
        "--targets v_proj.weight: tiny-llama has no such module",
    ),
    Case(
        "diff excludes nothing",
        lambda i: ["diff", *i.adapters, "--exclude", "nosuch", *OUT],
        "--exclude 'nosuch' leaves nothing out",
    ),
    Case(
        "diff includes nothing",
        lambda i: ["diff", *i.adapters, "--include", "lm_heads", *OUT],
        "leave nothing of the delta",
    ),
    Case(
        "diff beyond the blocks",
        lambda i: ["diff", *i.adapters, "--layers", "1-99", *OUT],
        r"--layers: .* nothing in \[3, .*\] and 89 more; it changes blocks 0 to 2",
    ),
    Case(
        "diff of itself",
        lambda i: ["diff", i.adapters[0], i.adapters[0], "--include", "weight", *OUT],
        "changes nothing against",
    ),
    Case(
        "steer excludes nothing",
        lambda i: ["steer", i.tiny, i.delta(), "--k", 1, "--exclude", "mlp", *OUT],
        "--exclude 'mlp' leaves nothing out",
    ),
    Case(
        "export excludes nothing",
        lambda i: ["steer", i.tiny, i.delta(), "--k", 1, "--exclude", "x", "--as", "delta", *OUT],
        "--exclude 'x' leaves nothing out",
    ),
    Case(
        "steer in no block",
        lambda i: ["steer", i.tiny, i.delta(), "--k", 1, "--layers", 0, *OUT],
        "it changes no block",
    ),
    Case(
        "eval in no block",
        lambda i: ["eval", i.tiny, "--delta", i.delta(), "--layers", 9, *EVAL, *OUT],
        "it changes no block",
    ),
    Case(
        "monitor excludes nothing",
        lambda i: ["monitor", *i.adapters, "--exclude", "lm_head", *OUT],
        "--exclude 'lm_head' leaves nothing out: it is found in no name of any item",
    ),
    Case(
        "monitor includes nothing",
        lambda i: ["monitor", *i.adapters, "--include", "x", *OUT],
        "leave nothing of the delta",
    ),
    Case(
        "monitor groups nothing",
        lambda i: ["monitor", *i.adapters, "--group", "g=x*", *OUT],
        "--group g=x.* matches no item",
    ),
    Case(
        "ceiling of no delta",
        lambda i: ["monitor", i.delta(), "--ceiling", f"v={i.delta('u')}", *OUT],
        "--ceiling 'v' names no DELTA; they are w",
    ),
    Case(
        "ceiling that is the delta",
        lambda i: ["monitor", i.delta(), "--ceiling", f"w={i.delta()}", *OUT],
        "--ceiling w names the delta itself",
    ),
    # ---- names are labels
    Case(
        "a gate on a name of two",
        lambda i: ["monitor", *one_name(i), "--fail-above", "nosuch=0.5", *OUT],
        "they are w.safetensors, w",
    ),
    Case(
        "one delta added twice",
        lambda i: ["steer", i.tiny, i.delta(), link(i), "--k", 1, *OUT],
        "again.safetensors is named twice; give it once",
    ),
    Case("a link and its target", lambda i: ["monitor", i.delta(), link(i), *OUT], "again.safetensors is named twice"),
    Case(
        "a run and its checkpoint",
        lambda i: ["monitor", i.adapters[0], "--of", run(i), "run/checkpoint-10", *OUT],
        "checkpoint-10 is named twice",
    ),
    Case(
        "rows twice",
        lambda i: ["monitor", i.vectors(), "--of", i.chats[0], copied_rows(i), "--base", i.tiny, *OUT],
        "linked.jsonl is named twice",
    ),
    Case(
        "one shift twice",
        lambda i: [
            "monitor",
            i.vectors(),
            "--of",
            i.chats[0],
            "--base",
            i.tiny,
            "--shift",
            i.adapters[0],
            f"{i.adapters[0]}/",
            *OUT,
        ],
        r"is named twice \(--shift\)",
    ),
    Case(
        "a vector tracked",
        lambda i: ["finetune", i.tiny, i.chats[0], "--track", i.vectors(), *OUT],
        "a is an activation vector, no change of weights",
    ),
    Case("seeds of one number", lambda i: ["diff", seeds(i, "1", "01"), *OUT], "seed-01 and seed-1 are one seed"),
    Case("seeds of one folder", lambda i: ["diff", linked_seeds(i), *OUT], "seed-1 and seed-3 are one seed"),
    Case(
        "targets without LoRA",
        lambda i: ["finetune", i.tiny, i.chats[0], "--method", "bias", "--targets", "q_proj", *OUT],
        "--targets is no option of --method bias, but of lora",
        code=2,
    ),
    Case(
        "modules to save without LoRA",
        lambda i: ["finetune", i.tiny, i.chats[0], "--method", "full", "--modules-to-save", "lm_head", *OUT],
        "--modules-to-save is no option of --method full, but of lora",
        code=2,
    ),
    Case(
        "one gate twice",
        lambda i: ["monitor", i.delta(), "--of", i.adapters[0], "--fail-above", "w=0", "--fail-above", "w=2", *OUT],
        "'w' is given twice",
        code=2,
    ),
    Case(
        "one group twice",
        lambda i: ["monitor", *i.adapters, "--group", "g=p*", "--group", "g=n*", *OUT],
        "'g' is given twice",
        code=2,
    ),
    Case(
        "one step twice",
        lambda i: ["monitor", i.adapters[0], "--of", steps_of_one_number(i), *OUT],
        "holds step 10 twice, checkpoint-010 and checkpoint-10",
    ),
    Case(
        "a projection of some names",
        lambda i: ["monitor", i.vectors(), "--of", i.chats[0], "--base", i.tiny, "--include", "q_proj", *OUT],
        "projections choose by --layers alone",
        code=2,
    ),
    Case(
        "vectors of equal rows",
        lambda i: ["actvec", i.tiny, i.chats[0], copied_rows(i), *OUT],
        "there is no direction to write",
    ),
    # ---- a delta of another model
    Case(
        "steer another",
        lambda i: ["steer", biased(i), of_model(i, i.tiny), "--k", 1, *OUT],
        r"v.safetensors \(of .*\) and biased \(of biased\) have different bases; use the model it was made on",
    ),
    Case(
        "export another",
        lambda i: ["steer", biased(i), of_model(i, i.tiny), "--k", 1, "--as", "delta", *OUT],
        "have different bases",
    ),
    Case(
        "eval another",
        lambda i: ["eval", biased(i), "--delta", of_model(i, i.tiny), *EVAL, *OUT],
        "have different bases",
    ),
    Case(
        "project on another",
        lambda i: ["monitor", _other_vectors(i), "--of", i.chats[0], "--base", i.tiny, *OUT],
        "have different bases; name the base it was made on",
    ),
    Case(
        "shift by another",
        lambda i: [*project(i), "--shift", of_model(i, biased(i)), *OUT],
        "have different bases; name the --base it was tuned from",
    ),
    Case(
        "shift by a vector",
        lambda i: [*project(i), "--shift", i.vectors(), *OUT],
        "an activation vector, no tuned model",
    ),
    Case(
        "track another",
        lambda i: ["finetune", i.tiny, i.chats[0], "--track", of_model(i, biased(i)), *OUT],
        "have different bases; track changes of the model trained",
    ),
    Case(
        "steer a tuned one",
        lambda i: ["steer", tuned(i), of_model(i, i.tiny), "--k", 1, *OUT],
        "warning: the named bases differ, tiny-llama and .*tuned",
        code=0,
    ),
    Case(
        "export a tuned one",
        lambda i: ["steer", tuned(i), of_model(i, i.tiny), "--k", 1, "--as", "delta", *OUT],
        "warning: the named bases differ",
        code=0,
    ),
    Case(
        "eval a tuned one",
        lambda i: ["eval", tuned(i), "--delta", of_model(i, i.tiny), *EVAL, *OUT],
        "warning: the named bases differ",
        code=0,
    ),
    Case(
        "monitor two models",
        lambda i: ["monitor", of_model(i, i.tiny), of_model(i, tuned(i), "u"), *OUT],
        "the named bases differ, tiny-llama and .*tuned",
        code=0,
    ),
    # ---- vectors, and numbers that overflow
    Case(
        "eval at every block",
        lambda i: ["eval", i.tiny, "--delta", i.vectors(), *EVAL, *OUT],
        "holds the activation vectors of 3 blocks.* with --layers",
    ),
    Case(
        "k beyond float32",
        lambda i: ["eval", i.tiny, "--delta", i.vectors(), "--layers", 1, "--k", "1e39", *EVAL, *OUT],
        "'1e39' is not finite, or too large for float32",
        code=2,
    ),
    Case(
        "k whose square overflows",
        lambda i: ["eval", i.tiny, "--delta", i.vectors(), "--layers", 1, "--k", "0,1e30", *EVAL, *OUT],
        r"k = 1e\+30 times blocks.1 is beyond",
    ),
    Case(
        "k beyond float16",
        lambda i: [
            "eval",
            i.tiny,
            "--delta",
            i.vectors(),
            "--layers",
            1,
            "--k",
            "1e5",
            "--dtype",
            "float16",
            *EVAL,
            *OUT,
        ],
        "in float16 can add; lower --k",
    ),
    Case(
        "a vector of NaN",
        lambda i: ["eval", i.tiny, "--delta", i.vectors(float("nan")), "--layers", 1, *EVAL, *OUT],
        "k = 1 times blocks.1 is beyond",
    ),
    Case(
        "a delta beyond float32",
        lambda i: ["steer", i.tiny, wide(i), "--k", "1e38", "--as", "delta", *OUT],
        "becomes NaN or infinite",
    ),
    Case("k below float32", lambda i: ["steer", i.tiny, i.delta(), "--k", "1e-300", *OUT], "beyond .* raise --k"),
    Case(
        "nothing was graded",
        lambda i: ["eval", i.tiny, *EVAL, *OUT],
        r"base +undefined \(2 abstained\)(.|\n)*warning: the rule could not grade most answers",
        code=0,
    ),
    Case("one item by layer", lambda i: ["monitor", i.adapters[0], "--per", "layer", *OUT], r"pos +1\.000\n", code=0),
]


def _other_vectors(inputs: Inputs) -> Path:
    """Activation vectors that name another model as their base."""
    path = inputs.vectors()
    base = open_checkpoint(biased(inputs)).identity
    delta = Delta.load(path)
    Delta("activation", delta.terms, base=base).save(inputs.folder / "b.safetensors")
    return inputs.folder / "b.safetensors"
