"""A model's own code never runs, whatever a terminal answers to transformers' question, in any command."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.helpers.command import TRAIT, Inputs
from tests.helpers.files import edited
from tests.helpers.tiny import save_adapter

# runs commands one after the other in this process, whose imports take longer than the commands
COMMANDS = """
import json, sys
from wsteer.cli.main import main
codes = {}
for name, arguments in json.load(open(sys.argv[1])).items():
    try:
        main(arguments)
    except SystemExit as done:
        codes[name] = done.code or 0
json.dump(codes, open(sys.argv[2], "w"))
"""
MAP = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoModel": "evil.Evil"}


def with_code(folder: Path, tiny: Path, marker: Path) -> Path:
    """The tiny model with code of its own for everything that transformers knows to load, and its own kind of model."""
    shutil.copytree(tiny, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    code = f"open({str(marker)!r}, 'a').write('ran')\n"
    (folder / "evil.py").write_text(code + "class Evil: pass\n")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code + "def generate(*a, **k): pass\n")
    edited(folder / "config.json", auto_map=MAP)
    edited(folder / "processor_config.json", auto_map={"AutoProcessor": "evil.Evil"}, processor_class="Evil")
    edited(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"})
    edited(folder / "generation_config.json", custom_generate=str(folder))
    return folder


def known_kind(folder: Path) -> None:
    """transformers has its own code for it, which is used."""


def unknown_kind(folder: Path) -> None:
    edited(folder / "config.json", model_type="evil")


def own_tokenizer(folder: Path) -> None:
    names = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    edited(folder / "tokenizer_config.json", auto_map=names, tokenizer_class="Evil")


def old_tokenizer(folder: Path) -> None:
    """In the list form of old files, and without a file that a tokenizer of transformers reads."""
    edited(folder / "tokenizer_config.json", auto_map=["evil.Evil", None])
    (folder / "tokenizer.json").unlink()


def elsewhere(folder: Path) -> None:
    """Code in another repository."""
    edited(folder / "config.json", model_type="evil", auto_map={key: f"org/evil--{name}" for key, name in MAP.items()})


RUNS = ("generate", "finetune", "actvec", "eval", "project")  # the commands that run a model
TUNER = ("tuner",)  # builds a model without weights, and no tokenizer
KINDS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "known": (known_kind, ()),
    "unknown": (unknown_kind, (*RUNS, *TUNER, "demo")),
    "own-tokenizer": (own_tokenizer, RUNS),
    "old-tokenizer": (old_tokenizer, RUNS),
    "elsewhere": (elsewhere, (*RUNS, *TUNER, "demo")),
}


def commands(inputs: Inputs, model: Path) -> dict[str, list]:
    """Arguments, without -o, of every command on `model`; of `demo` alone where it is refused at once."""
    tuner = inputs.folder / f"ia3 of {model.name}"
    attached = get_peft_model(AutoModelForCausalLM.from_pretrained(inputs.tiny), IA3Config(task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.add_(0.1)
    attached.save_pretrained(tuner)
    edited(tuner / "adapter_config.json", base_model_name_or_path=str(model))
    trait = inputs.text("trait.json", json.dumps(TRAIT))
    vector = inputs.folder / f"{model.name}-vector.safetensors"
    return {
        "vector": ["actvec", inputs.tiny, *inputs.chats, "-o", vector],
        "generate": ["generate", model, trait, "--samples", 1, "--max-new-tokens", 2],
        "finetune": ["finetune", model, inputs.chats[0], "--max-steps", 1, "--rank", 2],
        "diff": ["diff", model, inputs.tiny],
        "tuner": ["diff", tuner],
        "steer": ["steer", model, inputs.delta(f"w-{model.name}"), "--k", "1"],
        "actvec": ["actvec", model, *inputs.chats],
        "eval": ["eval", model, "--task", "agreement", "--limit", 1],
        "monitor": ["monitor", inputs.delta(f"v-{model.name}"), "--of", model, "--base", inputs.tiny],
        "project": ["monitor", vector, "--of", inputs.chats[0], "--base", model],
        "demo": ["demo", "--model", model],
    }


def answered(script: list[str], environment: dict[str, str]) -> str:
    """What Python says in a terminal in which every question is answered with y."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", *script],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    os.close(slave)
    os.write(master, b"y\n" * 200)
    said = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux's end of a terminal
            break
        if not chunk:
            break
        said += chunk
    os.close(master)
    process.wait(60)
    return said.decode(errors="replace")


@pytest.mark.slow
def test_no_command_runs_a_models_own_code(inputs: Inputs) -> None:
    marker, asked, ended = (inputs.folder / name for name in ("marker", "commands.json", "codes.json"))
    every: dict[str, list[str]] = {}
    expected = {}
    for kind, (change, refused) in KINDS.items():
        model = with_code(inputs.folder / kind, inputs.tiny, marker)
        change(model)
        for name, arguments in commands(inputs, model).items():
            if name == "demo" and name not in refused:
                continue  # it would take half a minute
            output = [] if "-o" in arguments else ["-o", inputs.folder / f"{kind}-{name}.safetensors"]
            every[f"{kind}: {name}"] = list(map(str, [*arguments, *output]))
            expected[f"{kind}: {name}"] = int(name in refused)
    asked.write_text(json.dumps(every))
    environment = {**os.environ, "HF_MODULES_CACHE": str(inputs.folder / "modules"), "HF_HUB_OFFLINE": "1"}
    said = answered([COMMANDS, str(asked), str(ended)], environment)
    assert "custom code? [y/N]" not in said
    assert not marker.exists(), said
    assert "Traceback" not in said
    assert json.loads(ended.read_text()) == expected, said


@pytest.mark.slow
def test_an_adapter_in_the_folder_is_not_loaded(inputs: Inputs) -> None:
    """Neither is it added to the model, nor is its base loaded in place of the model."""
    from wsteer.models.loading import load

    folder = shutil.copytree(inputs.tiny, inputs.folder / "both")
    plain = load(folder, "cpu").model.state_dict()
    save_adapter(folder, inputs.tiny, seed=1, std=0.5)
    shutil.copy(inputs.tiny / "config.json", folder / "config.json")
    edited(folder / "adapter_config.json", base_model_name_or_path="no/such-model")
    found = load(folder, "cpu").model
    assert type(found).__name__ == "LlamaForCausalLM"
    assert found.state_dict().keys() == plain.keys()
    assert all(tensor.equal(plain[name]) for name, tensor in found.state_dict().items())
