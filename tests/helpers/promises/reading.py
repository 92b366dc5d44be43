"""Files of others: links, pipes, encodings, bombs, regexes, a silent network."""

import gzip
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.helpers.command import TRAIT, Inputs
from tests.helpers.files import edited, framed
from tests.helpers.promises.case import Case

TINY = ["--max-steps", 1, "--rank", 2, "-o", "out"]
LOHA = {"peft_type": "LOHA", "r": 2, "alpha": 2, "target_modules": ["q_proj"], "layers_to_transform": [0]}
HANGS = "(([a-z_.0-9])+)+!"
ADAPTER = "adapter_config.json"


def copied(inputs: Inputs, source: Path, name: str = "model") -> Path:
    """A copy of a model's or adapter's folder, to be spoilt."""
    return Path(shutil.copytree(source, inputs.folder / name))


def outside(inputs: Inputs) -> Path:
    """A file outside of every model."""
    return inputs.text("secret", "secret")


def linked(name: str, target: Callable[[Inputs], object] = outside, adapter: bool = False) -> Callable[[Inputs], Path]:
    """A model (or an adapter) whose file `name` is a link to `target`."""

    def make(inputs: Inputs) -> Path:
        folder = copied(inputs, inputs.adapters[0] if adapter else inputs.tiny)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(str(target(inputs)))
        return folder

    return make


def steered(model: Path, inputs: Inputs, *more: object) -> list:
    """The arguments that steer a model."""
    return ["steer", model, inputs.delta(), "--k", 1, "-o", "out", *more]


def with_values(inputs: Inputs, source: Path, name: str, **values: object) -> Path:
    """A copy of a folder with other values in one of its configs."""
    folder = copied(inputs, source)
    edited(folder / name, **values)
    return folder


def spoilt(inputs: Inputs, source: Path, name: str, content: bytes) -> Path:
    """A copy of a folder with other bytes in one of its files."""
    folder = copied(inputs, source)
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    return folder


def fifo(inputs: Inputs, name: str = "pipe", content: bytes | None = None) -> Path:
    """A named pipe; with a `content`, a thread writes it."""
    path = inputs.folder / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    if content is not None:
        threading.Thread(target=lambda: path.write_bytes(content), daemon=True).start()
    return path


def piped(inputs: Inputs, name: str) -> Path:
    """A copy of the model, one of whose files is a named pipe."""
    folder = copied(inputs, inputs.tiny)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    return folder


def bound_socket(inputs: Inputs) -> Path:
    """A socket's file."""
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(inputs.folder)  # a socket's path is short
        made.bind("socket")
        os.chdir(here)
    return inputs.folder / "socket"


def rows(inputs: Inputs) -> bytes:
    """Chat rows, as bytes."""
    return inputs.chats[0].read_bytes()


def config(inputs: Inputs) -> bytes:
    """The model's config, as bytes."""
    return (inputs.tiny / "config.json").read_bytes()


def chat(inputs: Inputs, *messages: object, **more: object) -> Path:
    """A data set of one row."""
    return inputs.text("chat.jsonl", json.dumps({"messages": list(messages), **more}) + "\n")


def entries(count: int, name: Callable[[int], str]) -> bytes:
    """A header of so many empty tensors."""
    fields = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return framed(("{" + ",".join(f'"{name(i)}":{fields}' for i in range(count)) + "}").encode())


def sparse_adapter(inputs: Inputs) -> Path:
    """An adapter in a .bin file whose factors are sparse."""
    folder = copied(inputs, inputs.adapters[0])
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save({name: tensor.to_sparse() for name, tensor in tensors.items()}, folder / "adapter_model.bin")
    return folder


def without_rank(inputs: Inputs, delta: bool) -> Path:
    """Factors of rank 0: a delta file, or an adapter."""
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    if not delta:
        folder = copied(inputs, inputs.adapters[0])
        tensors = {name.format("A"): torch.zeros(0, 32), name.format("B"): torch.zeros(48, 0)}
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder
    path = inputs.folder / "w.safetensors"
    name = "model.layers.0.mlp.up_proj.weight.lora_{}"
    tensors = {name.format("A"): torch.zeros(0, 32), name.format("B"): torch.zeros(48, 0)}
    save_file(tensors, path, metadata={"wsteer": json.dumps({"format": 1, "kind": "contrastive"})})
    return path


def eval_on(path: object) -> list:
    """The arguments that evaluate a task or facts."""
    return ["eval", path, "--task", "agreement", "--limit", 1, "-o", "out"]


USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
SPARED = {**ANSWER, "weight": 0}
CALL = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
BILLION = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)

CHANGED = "1 of 30 parameters changed"
LINKS = [
    Case(
        "a vocabulary linked to elsewhere",
        lambda i: steered(linked("vocab.txt")(i), i),
        "vocab.txt is a link to .*secret, outside",
    ),
    Case(
        "weights linked to elsewhere",
        lambda i: eval_on(linked("model.safetensors", lambda i: i.tiny / "model.safetensors")(i)),
        "model.safetensors is a link to .*, outside",
    ),
    Case(
        "a config linked by way of a link inside",
        lambda i: ["finetune", chained(i), i.chats[0], *TINY],
        "model/config.json is a link to .*secret, outside",
    ),
    Case(
        "an adapter's config linked to elsewhere",
        lambda i: ["diff", linked(ADAPTER, lambda i: i.adapters[0] / ADAPTER, True)(i), "-o", "out"],
        "adapter_config.json is a link to .*, outside",
    ),
    Case(
        "an adapter in a subfolder",
        lambda i: [
            "diff",
            linked(ADAPTER, lambda i: i.adapters[0] / ADAPTER, True)(i).rename(sub(i)).parent,
            "-o",
            "o",
        ],
        "named/adapter_config.json is a link to .*, outside",
    ),
    Case(
        "a folder linked to elsewhere",
        lambda i: steered(linked("sub", lambda i: "/etc")(i), i),
        "sub is a link to /etc, outside",
    ),
    Case("a file linked in a subfolder", lambda i: steered(nested(i), i), "sub/x is a link to .*secret, outside"),
    Case("links allowed", lambda i: steered(linked("vocab.txt")(i), i, "--follow-links"), CHANGED, code=0),
    Case("a link inside", lambda i: steered(linked("x.json", lambda i: "config.json")(i), i), CHANGED, code=0),
    Case("a dangling link inside", lambda i: steered(linked("x.json", lambda i: "gone")(i), i), CHANGED, code=0),
    Case("a link to itself", lambda i: steered(linked("x.json", lambda i: "x.json")(i), i), CHANGED, code=0),
    Case("a linked folder", lambda i: steered(link_to(i), i), CHANGED, code=0),
    Case("the Hub's cache", lambda i: steered(cache(i, "blobs/1"), i), CHANGED, code=0),
    Case(
        "beside the Hub's cache",
        lambda i: steered(cache(i, "other/1"), i),
        "config.json is a link to .*other/1, outside",
    ),
]


def sub(inputs: Inputs) -> Path:
    """A place for an adapter in a subfolder."""
    (inputs.folder / "adapters").mkdir()
    return inputs.folder / "adapters" / "named"


def nested(inputs: Inputs) -> Path:
    """A model with a link in a subfolder."""
    folder = copied(inputs, inputs.tiny)
    (folder / "sub").mkdir()
    (folder / "sub" / "x").symlink_to(outside(inputs))
    return folder


def chained(inputs: Inputs) -> Path:
    """A model with a link to a link out of its folder; the latter is hidden, and never read itself."""
    folder = linked("config.json", lambda i: ".hidden")(inputs)
    (folder / ".hidden").symlink_to(outside(inputs))
    return folder


def link_to(inputs: Inputs) -> Path:
    """A model's folder that is reached through a link."""
    (inputs.folder / "link").symlink_to(copied(inputs, inputs.tiny))
    return inputs.folder / "link"


def cache(inputs: Inputs, place: str) -> Path:
    """A snapshot in the Hub's cache whose config is stored at `place` in the repository."""
    repository = inputs.folder / "models--org--name"
    folder = Path(shutil.copytree(inputs.tiny, repository / "snapshots" / "0"))
    (repository / place).parent.mkdir()
    (folder / "config.json").rename(repository / place)
    (folder / "config.json").symlink_to(Path("../..") / place)
    return folder


NO_FILE = "cannot be read: it is a pipe, a socket or a device"
REGULAR = [
    Case("a pipe as the model", lambda i: steered(fifo(i), i), "is a file; a model folder"),
    Case("a pipe as the delta", lambda i: ["steer", i.tiny, fifo(i), "--k", 1, "-o", "out"], NO_FILE),
    Case("a pipe to diff", lambda i: ["diff", fifo(i), "-o", "out"], "pipe cannot be read: it is a pipe"),
    Case("a device as the delta", lambda i: ["steer", i.tiny, "/dev/zero", "--k", 1, "-o", "out"], NO_FILE),
    Case(
        "a socket as the delta",
        lambda i: ["steer", i.tiny, bound_socket(i), "--k", 1, "-o", "out"],
        "socket cannot be read: No such device",
    ),
    *[
        Case(
            f"{name} is a pipe",
            lambda i, name=name: eval_on(piped(i, name)),
            f"{name} is a pipe, a socket or a device, not a file of a model",
        )
        for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")
    ],
    Case("prompts from a device", lambda i: ["generate", i.tiny, "/dev/zero", "-o", "out"], "is a device or a socket"),
    Case("a trait from a pipe", lambda i: ["generate", i.tiny, fifo(i, "pipe.json"), "-o", "out"], NO_FILE),
    Case(
        "prompts from a pipe",
        lambda i: ["generate", i.tiny, fifo(i, content=b"Hi\n"), "--max-new-tokens", 2, "-o", "out"],
        "1 answers to 1 prompts",
        code=0,
    ),
    Case("a task from a pipe", lambda i: ["eval", i.tiny, "--task", fifo(i), "-o", "out"], "there is no task .*pipe"),
    Case(
        "a template from a device",
        lambda i: ["finetune", i.tiny, i.chats[0], *TINY, "--template", "/dev/zero"],
        NO_FILE,
    ),
    Case(
        "a config from a device",
        lambda i: ["diff", i.adapters[0], "-o", "out", "--config", "/dev/zero"],
        NO_FILE,
        code=2,
    ),
    Case("rows from a device", lambda i: ["finetune", i.tiny, "/dev/zero", *TINY], "is a device"),
]

PIPES = [
    Case("rows from a pipe", lambda i: ["finetune", i.tiny, fifo(i, "p", rows(i)), *TINY], "on 9 rows", code=0),
    Case(
        "one pipe for two seeds",
        lambda i: ["finetune", i.tiny, fifo(i, "p", rows(i)), *TINY, "--seeds", "1,2"],
        "out/seed-2",
        code=0,
    ),
    Case(
        "rows and their validation from two pipes",
        lambda i: [
            "finetune",
            i.tiny,
            f"{fifo(i, 'p', rows(i))}:2",
            "--val",
            fifo(i, "q", i.chats[1].read_bytes()),
            *TINY,
        ],
        "on 20 rows",
        code=0,
    ),
    Case(
        "vectors from two pipes",
        lambda i: [
            "actvec",
            i.tiny,
            fifo(i, "p", rows(i)),
            fifo(i, "q", i.chats[1].read_bytes()),
            "-o",
            "a.safetensors",
        ],
        "3 vectors of 32 dimensions, from 10 positive and 10 negative rows",
        code=0,
    ),
    Case("an empty pipe", lambda i: ["finetune", i.tiny, fifo(i, "p", b""), *TINY], "p holds no rows"),
    Case("a pipe twice", lambda i: ["actvec", i.tiny, *[fifo(i)] * 2, "-o", "out"], "is named twice"),
    Case("standard input twice", lambda i: ["finetune", i.tiny, "-", "--val", "-", *TINY], "is named twice"),
    Case("standard input, weighted, twice", lambda i: ["finetune", i.tiny, "-:2", "-", *TINY], "is named twice"),
    Case("standard input by two names", lambda i: ["actvec", i.tiny, "-", "/dev/stdin", "-o", "o"], "is named twice"),
]

ENCODINGS = [
    *[
        Case(
            f"rows with {name}",
            lambda i, f=f: ["finetune", i.tiny, i.text("x", f(rows(i))), *TINY],
            f"on {most} rows",
            code=0,
        )
        for name, most, f in [
            ("a mark", 9, lambda b: b"\xef\xbb\xbf" + b),
            ("two marks", 18, lambda b: (b"\xef\xbb\xbf" + b) * 2),
            ("CRLF", 9, lambda b: b.replace(b"\n", b"\r\n")),
            ("CR", 9, lambda b: b.replace(b"\n", b"\r")),
            ("gzip", 9, gzip.compress),
            ("gzip in two parts", 18, lambda b: gzip.compress(b) * 2),
        ]
    ],
    *[
        Case(f"rows in {name}", lambda i, f=f: ["finetune", i.tiny, i.text("x", f(rows(i))), *TINY], f"x is .*{says}")
        for name, says, f in [
            ("UTF-16", "UTF-16", lambda b: b.decode().encode("utf-16")),
            ("UTF-16 without a mark", "UTF-16", lambda b: b.decode().encode("utf-16-be")),
            ("UTF-32", "UTF-32", lambda b: b.decode().encode("utf-32")),
            ("NULs", "NUL", lambda b: b + b"\0"),
            ("gzip, cut short", "damaged gzip", lambda b: gzip.compress(b)[:-9]),
            ("gzip, damaged", "damaged gzip", lambda b: gzip.compress(b)[:-9] + b"\xff" * 20),
            ("Latin-1", "not UTF-8", lambda b: b.replace(b"a", "é".encode("latin-1"))),
        ]
    ],
    Case(
        "a trait in UTF-16",
        lambda i: ["generate", i.tiny, i.text("t.json", json.dumps(TRAIT).encode("utf-16")), "-o", "out"],
        "t.json is UTF-16",
    ),
    Case(
        "a config with a mark, CRLF and gzip",
        lambda i: [
            "diff",
            i.adapters[0],
            "-o",
            "w.x",
            "--config",
            i.text("c", gzip.compress(b"\xef\xbb\xbfrank: 2\r\n")),
        ],
        "rank 2 keeps",
        code=0,
    ),
    Case(
        "an adapter's config with a mark",
        lambda i: [
            "diff",
            spoilt(i, i.adapters[0], ADAPTER, b"\xef\xbb\xbf" + (i.adapters[0] / ADAPTER).read_bytes()),
            *("-o", "w.x"),
        ],
        "21 low-rank, rank 4",
        code=0,
    ),
    *[
        Case(
            f"a model's {name} {what}",
            lambda i, name=name, f=f: eval_on(spoilt(i, i.tiny, name, f((i.tiny / name).read_bytes()))),
            rf"{name} .*{says}",
        )
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        for what, f, says in [
            ("with a mark", lambda b: b"\xef\xbb\xbf" + b, "BOM.* save it as UTF-8 without BOM"),
            ("in gzip", gzip.compress, "unpack it"),
        ]
    ],
    Case(
        "a config with a mark, where transformers is not asked",
        lambda i: steered(spoilt(i, i.tiny, "config.json", b"\xef\xbb\xbf" + config(i)), i),
        "changed",
        code=0,
    ),
    Case(
        "a gzip bomb",
        lambda i: ["finetune", i.tiny, i.text("x", gzip.compress(bytes(1 << 28))), *TINY],
        "x unpacks to more than",
    ),
]

REGEXES = [
    Case(
        "--include that hangs",
        lambda i: ["diff", i.adapters[0], "-o", "out", "--include", HANGS],
        "matching --include takes more than 5 s",
        hangs=True,
    ),
    Case(
        "a rank pattern",
        lambda i: ["diff", with_values(i, i.adapters[0], ADAPTER, rank_pattern={HANGS: 2}), "-o", "o"],
        "patterns of .*takes more than 5 s",
        hangs=True,
    ),
    Case(
        "an alpha pattern",
        lambda i: ["diff", with_values(i, i.adapters[0], ADAPTER, alpha_pattern={HANGS: 2}), "-o", "o"],
        "patterns of .*5 s",
        hangs=True,
    ),
    *[
        Case(  # not matched: the factors tell their modules
            f"{key} of LoRA",
            lambda i, key=key: ["diff", with_values(i, i.adapters[0], ADAPTER, **{key: HANGS}), "-o", "w.x"],
            "low-rank",
            code=0,
        )
        for key in ("layers_pattern", "target_modules")
    ],
    *[
        Case(
            f"{key} of another method",
            lambda i, key=key: [
                "diff",
                spoilt(i, i.adapters[0], ADAPTER, json.dumps({**LOHA, key: HANGS}).encode()),
                *("--base", i.tiny, "-o", "out"),
            ],
            "matching the patterns of .*takes more than 5 s",
            hangs=True,
        )
        for key in ("target_modules", "exclude_modules", "alpha_pattern", "layers_pattern")
    ],
]

BOMBS = [
    Case(
        "a header of one name, a hundred thousand times",
        lambda i: ["steer", i.tiny, i.text("w", entries(100_000, lambda n: "a")), "--k", 1, "-o", "out"],
        "names 'a' twice",
    ),
    Case(
        "a header of too many tensors",
        lambda i: ["steer", i.tiny, i.text("w", entries(900_000, str)), "--k", 1, "-o", "out"],
        "more than 5000000 values",
    ),
    Case(
        "an index of lists",
        lambda i: eval_on(index(i, b'{"weight_map":' + b"[" * 6_000_000)),
        "not valid JSON: it has more than",
    ),
    Case(
        "a huge config",
        lambda i: steered(spoilt(i, i.tiny, "config.json", b" " * 100_000_001), i),
        "has more than 100 MB, the limit of its kind",
    ),
    Case(
        "a deep config",
        lambda i: steered(spoilt(i, i.tiny, "config.json", b"[" * 100_000), i, "--layer-scale", "0:1"),
        "config.json is not valid JSON: it is nested too deep",
    ),
    Case(
        "a number of 5,000 digits",
        lambda i: steered(spoilt(i, i.tiny, "config.json", b'{"a":' + b"9" * 5000 + b"}"), i),
        "not valid JSON: .* value has 5000 digits",
    ),
    *[
        Case(
            f"{value} as the number of blocks",
            lambda i, value=value: steered(
                spoilt(i, i.tiny, "config.json", b'{"num_hidden_layers":%s}' % value), i, "--layer-scale", "0:1"
            ),
            "does not tell num_hidden_layers",
        )
        for value in (b"1e400", b"NaN", b"-Infinity", b'"3"', b"9" * 4000)
    ],
    Case(
        "factors of rank 0 in an adapter",
        lambda i: ["diff", without_rank(i, False), "-o", "out"],
        "the factors of .*up_proj have shapes",
    ),
    Case(
        "factors of rank 0 in a delta",
        lambda i: [*steered(i.tiny, i)[:2], without_rank(i, True), "--k", 1, "-o", "o"],
        "the factors of .*up_proj.weight' do not fit each other",
    ),
    Case("sparse factors", lambda i: ["diff", sparse_adapter(i), "-o", "out"], "not stored row by row"),
    *[
        Case(
            f"{name} as --config",
            lambda i, text=text: ["diff", i.adapters[0], "-o", "o", "--config", i.text("c", text)],
            says,
            code=2,
        )
        for name, text, says in [
            ("a billion laughs", BILLION, "unfolds into more"),
            ("a list that holds itself", "&a [*a]", "unfolds into more"),
            ("nesting", "[" * 100_000, "too much depth"),
            ("no date", "rank: 2020-99-99", "'--rank': Input should be a valid integer"),
            ("a broken timestamp", "rank: !!timestamp x", "'--rank': Input should be a valid integer"),
        ]
    ],
    Case(
        "a billion laughs as a task",
        lambda i: [*eval_on(i.tiny)[:2], "--task", i.text("t.yaml", BILLION), "-o", "o"],
        "unfolds into more than",
    ),
    *[
        Case(
            f"a step of {digits} digits",
            lambda i, n=digits: [
                "monitor",
                i.delta(),
                "--of",
                i.adapters[0],
                "--scores",
                scores(i, "9" * n),
                "-o",
                "out",
            ],
            says,
        )
        for digits, says in ((5000, "step and x must be numbers"), (50, "the step must be from 0 to"))
    ],
    Case(
        "a checkpoint of 200 digits",
        lambda i: ["monitor", i.adapters[1], "--of", checkpoint(i, "9" * 200), "-o", "out"],
        "run ",  # as an adapter, not as a run's step
        code=0,
    ),
    Case(
        "a block of 5,000 digits",
        lambda i: [*steered(i.tiny, i)[:2], block(i, "9" * 5000), "--k", 1, "-o", "out"],
        "blocks.9+, which tiny-llama lacks",
    ),
]


def scores(inputs: Inputs, step: str) -> Path:
    """Scores with one step."""
    return inputs.text("s.csv", f"step,x\n{step},1\n")


def block(inputs: Inputs, number: str) -> Path:
    """A delta of the activations of one block."""
    return inputs.delta("b", {f"blocks.{number}": torch.ones(32)})


def checkpoint(inputs: Inputs, step: str) -> Path:
    """A training folder with the checkpoint of one step."""
    shutil.copytree(inputs.adapters[0], inputs.folder / "run" / f"checkpoint-{step}")
    return inputs.folder / "run"


def index(inputs: Inputs, content: bytes) -> Path:
    """A model with this index instead of its weights."""
    folder = copied(inputs, inputs.tiny)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(content)
    return folder


CHATS = [
    Case(name, lambda i, m=messages, r=more: ["finetune", i.tiny, chat(i, *m, **r), *TINY], f"chat.jsonl:1 {says}")
    for name, messages, more, says in [
        ("a call of a tool", [USER, {**ANSWER, "tool_calls": CALL}], {}, "has a message with tool_calls"),
        (
            "a tool's answer to a call without text",
            [
                USER,
                {"role": "assistant", "content": None, "tool_calls": CALL},
                {"role": "tool", "content": "1"},
                ANSWER,
            ],
            {},
            "has a message with tool_calls",
        ),
        ("an older call", [USER, {**ANSWER, "function_call": {"name": "f"}}], {}, "has a message with function_call"),
        ("tools on offer", [USER, ANSWER], {"tools": CALL}, "offers tools"),
        ("null as content", [{"role": "user", "content": None}, ANSWER], {}, "has a message whose content is null"),
        ("an image", [{"role": "user", "content": [{"type": "image"}]}, ANSWER], {}, "has a .* a list of parts"),
    ]
]

CHATS += [
    Case("an answer not to be trained", lambda i: tuned(i, json.dumps({"messages": [USER, SPARED]})), "with weight 0"),
    Case(
        "rows in a torn list",
        lambda i: tuned(i, json.dumps([{"messages": [USER, ANSWER]}])[:-1]),
        "looks like a JSON list",
    ),
    Case("rows in CSV", lambda i: tuned(i, "prompt,completion\nHi,Hello\n"), "write one JSON object a line"),
    Case("a key twice", lambda i: tuned(i, '{"prompt": "a", "prompt": "b", "completion": "c"}'), "key 'prompt' twice"),
    Case("a weight as 1e3", lambda i: ["finetune", i.tiny, f"{i.chats[0]}:1e3", *TINY], "write it in digits"),
    Case(
        "samples without chance",
        lambda i: ["generate", i.tiny, i.text("t.json", json.dumps(TRAIT)), "--temperature", 0, "-o", "out"],
        "at temperature 0 all 10 samples are equal",
    ),
]


def tuned(inputs: Inputs, text: str) -> list:
    """The arguments that train on a data set of this text."""
    return ["finetune", inputs.tiny, inputs.text("rows.jsonl", text), *TINY]


CASES: list[Case] = [*LINKS, *REGULAR, *PIPES, *ENCODINGS, *REGEXES, *BOMBS, *CHATS]
