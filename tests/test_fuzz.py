"""Whatever the files of others hold, nothing but WsteerError comes out: hypothesis mutates sound files.

Values are swapped for odd ones, keys dropped and renamed, bytes flipped. WSTEER_FUZZ_CASES sets the number of cases in
all tests here (default 2400); they are the same in every run. Once in a while:

    WSTEER_FUZZ_CASES=50000 pytest tests/test_fuzz.py
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import wsteer
from tests.helpers.command import TRAIT
from tests.helpers.files import framed
from tests.helpers.mutations import (
    REGEXES,
    damaged_pickle,
    documents,
    mutated_bytes,
    refused_or_fine,
    split,
    texts,
)
from tests.helpers.tasks import FACT
from tests.helpers.tiny import TEMPLATE, save_model
from wsteer.checkpoints.checkpoint import INDEX, find_shards, open_checkpoint
from wsteer.checkpoints.contents import links_followed
from wsteer.deltas.adapters.adapter import WEIGHTS
from wsteer.deltas.adapters.keys import PREFIX
from wsteer.deltas.adapters.reading import CONFIG
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import open_input
from wsteer.deltas.selection import Selection
from wsteer.elicitation.trait import read_trait
from wsteer.evaluation.tasks.facts import Fact, read_facts
from wsteer.evaluation.tasks.task import BUILT_IN, Task, load_task
from wsteer.evaluation.tasks.turns import choice_turns, user_turns
from wsteer.files.rows import read_placed_chats
from wsteer.files.tensors import FLOATS, read_tensor
from wsteer.files.text import read_json
from wsteer.models.chat import read_template
from wsteer.models.generation import answer
from wsteer.models.loading import load
from wsteer.monitoring.trajectories import read_scores

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("WSTEER_FUZZ_CASES", "2400"))
TESTS = 11
fuzz = settings(
    max_examples=-(-CASES // TESTS),
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


LAYER = "model.layers.0"
BASE = {
    "model.embed_tokens.weight": randn(16, 8),
    "model.norm.weight": randn(8),
    "lm_head.weight": randn(16, 8),
    f"{LAYER}.input_layernorm.weight": randn(8),
    f"{LAYER}.post_attention_layernorm.weight": randn(8),
    **{f"{LAYER}.self_attn.{name}.weight": randn(8, 8) for name in ("q_proj", "k_proj", "v_proj", "o_proj")},
    **{f"{LAYER}.mlp.{name}.weight": randn(12, 8) for name in ("gate_proj", "up_proj")},
    f"{LAYER}.mlp.down_proj.weight": randn(8, 12),
    # beside what a Llama has: a bias, stacked experts, GPT-2's transposed layers, a convolution
    f"{LAYER}.self_attn.q_proj.bias": randn(8),
    f"{LAYER}.moe.experts.down_proj": randn(3, 12, 8),
    "h.0.attn.c_attn.weight": randn(8, 24),
    "conv.weight": randn(6, 4, 3, 3),
}
BASE_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "tie_word_embeddings": False,
    "text_config": None,
}
PLAIN = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "base",
    "revision": None,
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "rank_pattern": {},
    "alpha_pattern": {},
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "modules_to_save": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "ensure_weight_tying": False,
    "use_bdlora": None,
    "kasa_config": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "use_qalora": False,
    "layer_replication": None,
}
Q = f"{PREFIX}{LAYER}.self_attn.q_proj"
Q_FACTORS = {f"{Q}.lora_A.weight": randn(2, 8), f"{Q}.lora_B.weight": randn(8, 2)}
EMBEDDING = f"{PREFIX}model.embed_tokens"
ADAPTERS: list[tuple[dict, dict[str, Tensor]]] = [
    ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"model.layers.0.*": 3}}, Q_FACTORS),
    ({"use_dora": True}, {**Q_FACTORS, f"{Q}.lora_magnitude_vector": randn(8)}),
    ({"init_lora_weights": "pissa"}, Q_FACTORS),
    ({"kasa_config": {"a": 1}}, {**Q_FACTORS, f"{Q}.lora_diag": randn(2)}),
    ({"bias": "lora_only"}, {**Q_FACTORS, f"{Q}.lora_B.bias": randn(8), f"{Q}.base_layer.bias": randn(8)}),
    ({"modules_to_save": ["lm_head"]}, {**Q_FACTORS, f"{PREFIX}lm_head.weight": randn(16, 8)}),
    (
        {"trainable_token_indices": {"embed_tokens": [1, 5]}},
        {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": randn(2, 8)},
    ),
    (
        {"target_modules": ["embed_tokens"]},
        {
            f"{EMBEDDING}.lora_embedding_A": randn(2, 16),
            f"{EMBEDDING}.lora_embedding_B": randn(8, 2),
            f"{EMBEDDING}.base_layer.weight": BASE["model.embed_tokens.weight"],
        },
    ),
    (
        {"use_bdlora": {"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["o_proj"], "nblocks": 2}},
        {f"{Q}.lora_A.weight": randn(2, 4), f"{Q}.lora_B.weight": randn(8, 2)},
    ),
    (
        {"target_parameters": ["moe.experts.down_proj"]},
        {
            f"{PREFIX}{LAYER}.moe.experts.lora_A.weight": randn(6, 8),
            f"{PREFIX}{LAYER}.moe.experts.lora_B.weight": randn(12, 6),
        },
    ),
    (
        {"target_modules": ["c_attn", "conv"], "fan_in_fan_out": True},
        {
            f"{PREFIX}h.0.attn.c_attn.lora_A.weight": randn(2, 24),
            f"{PREFIX}h.0.attn.c_attn.lora_B.weight": randn(8, 2),
            f"{PREFIX}conv.lora_A.weight": randn(2, 4, 3, 3),
            f"{PREFIX}conv.lora_B.weight": randn(6, 2, 1, 1),
        },
    ),
    (
        {"peft_type": "IA3", "target_modules": ["q_proj", "up_proj"], "feedforward_modules": ["up_proj"]},
        {
            f"{Q}.ia3_l": randn(8, 1),
            f"{PREFIX}{LAYER}.mlp.up_proj.ia3_l": randn(1, 8),
        },
    ),
]


CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.", "tool_calls": []}]}
TEXTS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "rows": (2 * (json.dumps(CHAT).encode() + b"\n"), read_placed_chats),
    "facts": (2 * (json.dumps({**FACT, "answer": ["four"]}).encode() + b"\n"), read_facts),
    "trait": (json.dumps(TRAIT, indent=1).encode(), read_trait),
    "scores": (b"step,score,run\n1,0.5,a\n2,1e3,\n", read_scores),
    "task": ((BUILT_IN / "agreement.yaml").read_bytes(), lambda path: load_task(str(path))),
    "choices": ((BUILT_IN / "agreement_choices.yaml").read_bytes(), lambda path: load_task(str(path))),
    "template": (TEMPLATE.encode(), read_template),
    "config": (json.dumps(PLAIN, indent=1).encode(), read_json),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has a parameter for every kind of adapter."""
    folder = tmp_path_factory.mktemp("fuzz") / "base"
    folder.mkdir()
    save_file(BASE, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(BASE_CONFIG))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers."""
    return save_model(tmp_path_factory.mktemp("small") / "model", num_hidden_layers=1)


@pytest.fixture(scope="module")
def other_base(base: Path) -> Path:
    """A checkpoint with the same names, and not a tensor that the adapters could be computed on."""
    folder = base.parent / "other"
    folder.mkdir()
    tensors = {name: tensor.to(torch.int8) for name, tensor in BASE.items()}
    tensors[f"{LAYER}.moe.experts.down_proj"] = torch.zeros(0, 12, 8)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    shutil.copyfile(base / "config.json", folder / "config.json")
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path) -> list[Path]:
    """Sound adapters of that base, one of each kind."""
    folders = []
    for number, (changes, tensors) in enumerate(ADAPTERS):
        folder = base.parent / f"adapter{number}"
        folder.mkdir()
        config = {**(PLAIN if "peft_type" not in changes else {}), **changes, "base_model_name_or_path": str(base)}
        (folder / CONFIG).write_text(json.dumps(config))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def deltas(base: Path) -> list[Path]:
    """Sound delta files of that base."""
    paths = [base.parent / f"{name}.safetensors" for name in ("low", "dense", "activation")]
    Delta.of_factors({f"{LAYER}.self_attn.q_proj.weight": (randn(8, 2), randn(2, 8))}).save(paths[0])
    Delta.of_tensors({"model.norm.weight": randn(8), f"{LAYER}.mlp.up_proj.weight": randn(12, 8)}).save(paths[1])
    Delta.of_tensors({"blocks.0": randn(8)}, kind="activation").save(paths[2])
    return paths


def scratch(folder: Path) -> Path:
    """An empty folder for one case."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def test_the_files_that_are_mutated_are_sound(base: Path, adapters: list[Path], deltas: list[Path]) -> None:
    for path in [*adapters, *deltas]:
        wsteer.diff(path, output=base.parent / "w.safetensors", base=base, force=True)
        assert Delta.load(base.parent / "w.safetensors").norm() > 0


@fuzz
@given(data=st.data())
def test_headers_of_checkpoints(base: Path, data: st.DataObject) -> None:
    header, content = split(base / "model.safetensors")
    folder = scratch(base.parent / "case")
    whole = framed(data.draw(documents(header)), content)
    if data.draw(st.integers(0, 9)) == 0:
        whole = data.draw(mutated_bytes(whole))
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "config.json").write_text(json.dumps(BASE_CONFIG))
    with refused_or_fine():
        checkpoint = open_checkpoint(folder)
        assert len(checkpoint.fingerprint) == 64
        for entry in checkpoint.parameters().values():
            if entry.dtype in FLOATS:
                assert read_tensor(entry).shape == entry.shape


@fuzz
@given(data=st.data())
def test_indexes_and_configs_of_checkpoints(base: Path, deltas: list[Path], data: st.DataObject) -> None:
    folder = scratch(base.parent / "case")
    names = sorted(BASE)
    weight_map = {}
    for shard, part in (("model-1.safetensors", names[::2]), ("model-2.safetensors", names[1::2])):
        save_file({name: BASE[name] for name in part}, folder / shard)
        weight_map.update(dict.fromkeys(part, shard))
    index, config = {"metadata": {"total_size": 1}, "weight_map": weight_map}, BASE_CONFIG
    which = data.draw(st.integers(0, 2))
    (folder / INDEX).write_bytes(data.draw(documents(index)) if which != 1 else json.dumps(index).encode())
    (folder / "config.json").write_bytes(data.draw(documents(config)) if which != 0 else json.dumps(config).encode())
    with refused_or_fine():
        assert all(shard.parent == folder for shard in find_shards(folder))
    with refused_or_fine():
        selection = Selection(layer_scale=(0.5, 1.0))
        wsteer.steer(
            folder, data.draw(st.sampled_from(deltas)), 1, base.parent / "out", selection=selection, dry_run=True
        )


@fuzz
@given(data=st.data())
def test_configs_of_adapters(base: Path, other_base: Path, adapters: list[Path], data: st.DataObject) -> None:
    folder = adapters[data.draw(st.integers(0, len(adapters) - 1))]
    config = json.loads((folder / CONFIG).read_text())
    case = scratch(base.parent / "case")
    shutil.copyfile(folder / WEIGHTS, case / WEIGHTS)
    (case / CONFIG).write_bytes(data.draw(documents(config)))
    diff_case(case, base, data)


@fuzz
@given(data=st.data())
def test_names_and_shapes_in_adapters(base: Path, other_base: Path, adapters: list[Path], data: st.DataObject) -> None:
    folder = adapters[data.draw(st.integers(0, len(adapters) - 1))]
    header, content = split(folder / WEIGHTS)
    leaves = [name.removeprefix(PREFIX) for _, tensors in ADAPTERS for name in tensors]
    for name in data.draw(st.lists(st.sampled_from(sorted(header)), max_size=2, unique=True)):
        part = data.draw(st.sampled_from(leaves)).rpartition(".lora_")
        ending = "lora_" + part[2] if part[1] else part[2]
        stem = name.rpartition(".lora_")[0]
        header[data.draw(st.sampled_from([PREFIX + part[0], f"{stem}.{ending}", f"{stem}.{part[2]}"]))] = header.pop(
            name
        )
    case = scratch(base.parent / "case")
    shutil.copyfile(folder / CONFIG, case / CONFIG)
    document = data.draw(documents(header)) if data.draw(st.booleans()) else json.dumps(header).encode()
    (case / WEIGHTS).write_bytes(framed(document, content))
    diff_case(case, base, data)


@fuzz
@given(data=st.data())
def test_records_beside_adapters(base: Path, other_base: Path, adapters: list[Path], data: st.DataObject) -> None:
    case = scratch(base.parent / "case")
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(adapters[0] / name, case / name)
    entry = {"role": "base", "name": "base", "revision": None, "fingerprint": "0" * 64}
    (case / "wsteer.json").write_bytes(data.draw(documents({"command": "finetune", "inputs": [entry]})))
    diff_case(case, base, data)


def diff_case(case: Path, base: Path, data: st.DataObject) -> None:
    """Diff the adapter alone or against a sound one, with the base or without."""
    given_base = data.draw(st.sampled_from([base, None, base.parent / "other"]))
    neg = data.draw(st.sampled_from([None, base.parent / "adapter0"]))
    with refused_or_fine():
        open_input(case, "pos", None)
    with refused_or_fine():
        wsteer.diff(case, neg, base.parent / "w.safetensors", base=given_base, force=True)


@fuzz
@given(data=st.data())
def test_delta_files(base: Path, deltas: list[Path], data: st.DataObject) -> None:
    path, other = data.draw(st.sampled_from(deltas)), base.parent / "case.safetensors"
    header, content = split(path)
    if data.draw(st.booleans()):
        info = json.loads(header["__metadata__"]["wsteer"])
        info.update(sources=[{"role": "pos", "path": "pos", "sha256": "0"}], layers=[1], options={"k": [1.0]})
        header["__metadata__"]["wsteer"] = data.draw(documents(info)).decode(errors="replace")
        document = json.dumps(header).encode()
    else:
        document = data.draw(documents(header))
    other.write_bytes(framed(document, content))
    with refused_or_fine():
        Delta.load(other).norm()
    with refused_or_fine():
        wsteer.diff(other, data.draw(st.sampled_from([None, *deltas])), base.parent / "w.safetensors", force=True)
    with refused_or_fine():
        wsteer.steer(base, other, 1, base.parent / "out", dry_run=True)


@fuzz
@given(data=st.data())
def test_texts(base: Path, data: st.DataObject) -> None:
    """Rows, traits, scores, tasks and templates: damaged, in another encoding, with bombs in them."""
    path = base.parent / "text"
    kind = data.draw(st.sampled_from(sorted(TEXTS)))
    sound, read = TEXTS[kind]
    changed = data.draw(mutated_bytes(sound)) if data.draw(st.booleans()) else sound
    path.write_bytes(data.draw(texts(changed)))
    with refused_or_fine():
        read(path)


@fuzz
@given(data=st.data())
def test_values_of_traits_tasks_and_rows(base: Path, data: st.DataObject) -> None:
    """Sound JSON, which YAML is too, with odd values and names in it; of a task the templates run as well."""
    path = base.parent / "values"
    kind = data.draw(st.sampled_from(["rows", "facts", "trait", "task", "choices"]))
    tasks = {kind: yaml.safe_load(TEXTS[kind][0]) for kind in ("task", "choices")}
    sound = {"rows": CHAT, "facts": FACT, "trait": TRAIT, **tasks}[kind]
    path.write_bytes(data.draw(documents(sound)))
    with refused_or_fine():
        read = TEXTS[kind][1](path)
        if isinstance(read, Task):
            user_turns(read, [Fact("a", FACT)])
            choice_turns(read, [Fact("a", FACT)])


@fuzz
@given(data=st.data())
def test_models_and_tokenizers(small: Path, data: st.DataObject) -> None:
    """A model's own files with odd values in them: it is refused when it is loaded, or it answers, or refuses then."""
    case = scratch(small.parent / "case")
    for path in small.iterdir():
        (case / path.name).symlink_to(path)
    name = data.draw(st.sampled_from(sorted(path.name for path in small.glob("*.json"))))
    (case / name).unlink()
    (case / name).write_bytes(data.draw(documents(json.loads((small / name).read_text()))))
    with refused_or_fine(), links_followed():
        answer(load(case, "cpu"), [[{"role": "user", "content": "Hi"}]], 2)


@fuzz
@given(data=st.data())
def test_links_and_regexes(base: Path, adapters: list[Path], data: st.DataObject) -> None:
    """A link in place of a file leads inside, outside or nowhere; patterns do not compile, or match much."""
    case = scratch(base.parent / "case")
    source = data.draw(st.sampled_from([base, *adapters]))
    for path in source.iterdir():
        shutil.copyfile(path, case / path.name)
    name = data.draw(st.sampled_from([path.name for path in source.iterdir()]))
    elsewhere = [".", "..", name, "gone", str(source / name), "/etc/passwd", "/dev/zero", "/", "/dev/null", "x" * 300]
    target = data.draw(st.sampled_from([None, *elsewhere]))
    if target is not None:
        (case / name).unlink()
        with contextlib.suppress(OSError):
            (case / name).symlink_to(target)
    if target is None and source != base:
        patterns = st.dictionaries(st.sampled_from(REGEXES), st.integers(0, 3), max_size=3)
        config = json.loads((case / CONFIG).read_text())
        config[data.draw(st.sampled_from(["rank_pattern", "alpha_pattern"]))] = data.draw(patterns)
        config[data.draw(st.sampled_from(["target_modules", "layers_pattern"]))] = data.draw(st.sampled_from(REGEXES))
        (case / CONFIG).write_text(json.dumps(config))
    selection = Selection(include=data.draw(st.sampled_from([None, *REGEXES])))
    with refused_or_fine():
        wsteer.diff(case, None, base.parent / "w.safetensors", base=base, selection=selection, force=True)
    with refused_or_fine():
        wsteer.steer(case, base.parent / "low.safetensors", 1, base.parent / "out", dry_run=True)


@fuzz
@given(data=st.data())
def test_pickled_weights(base: Path, data: st.DataObject) -> None:
    case = scratch(base.parent / "case")
    whole = data.draw(damaged_pickle(pickled({name: BASE[name] for name in sorted(BASE)[:3]})))
    (case / "pytorch_model.bin").write_bytes(whole)
    with refused_or_fine():
        checkpoint = open_checkpoint(case)
        for entry in checkpoint.tensors.values():
            assert read_tensor(entry).shape == entry.shape


def pickled(tensors: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    return buffer.getvalue()
