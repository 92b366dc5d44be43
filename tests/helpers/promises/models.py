"""Models, tokenizers, templates and tasks of strange content; numbers that would be wrong in silence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.helpers.command import ARGUMENTS, Inputs
from tests.helpers.files import edited
from tests.helpers.promises.case import Case
from tests.helpers.tasks import FACT, TASK

Edit = Callable[[Path], object]


def changed(file: str, *path: object, value: object = None) -> Edit:
    """A value of a JSON file changed; without a path, the whole file."""

    def edit(folder: Path) -> None:
        whole = {"": json.loads((folder / file).read_text())}
        place: dict = whole
        for key in ("", *path)[:-1]:
            place = place[key]
        place[("", *path)[-1]] = value
        (folder / file).write_text(json.dumps(whole[""]))

    return edit


def config(**values: object) -> Edit:
    """Values of config.json changed; generation_config.json, which repeats some of them, is removed."""

    def edit(folder: Path) -> None:
        edited(folder / "config.json", **values)
        (folder / "generation_config.json").unlink()

    return edit


def tokenizer(*path: object, value: object) -> Edit:
    return changed("tokenizer.json", *path, value=value)


def written(file: str, content: str | bytes) -> Edit:
    return lambda folder: (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)


def template(content: str) -> Edit:
    return written("chat_template.jinja", content)


def steps(step: dict, count: int) -> dict:
    return {"type": "Sequence", "normalizers": [step] * count}


def replacing(pattern: dict, content: str) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": content}


def model(name: str, edit: Edit, says: str, command: str = "actvec", code: int = 1, hangs: bool = False) -> Case:
    """A use of the tiny model after an edit of its folder."""

    def arrange(inputs: Inputs) -> list:
        folder = shutil.copytree(inputs.tiny, inputs.folder / "strange")
        edit(folder)
        arguments = ARGUMENTS[command](inputs)
        return [command, folder, *arguments[1:], "-o", inputs.folder / "out"]

    return Case(f"{name}, {command}", arrange, says, code, hangs=hangs)


def task(name: str, change: Callable[[str], str], says: str, code: int = 1, hangs: bool = False) -> Case:
    """An evaluation by a task after a change of its text, which is YAML in JSON's form."""

    def arrange(inputs: Inputs) -> list:
        inputs.text("facts.jsonl", json.dumps(FACT))
        path = inputs.text("mine.yaml", change(json.dumps(yaml.safe_load(TASK))))
        return ["eval", inputs.tiny, "--task", path, "-o", inputs.folder / "out"]

    return Case(f"task: {name}", arrange, says, code, hangs=hangs)


def put(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


def asking(content: str) -> Callable[[str], str]:
    return put(json.dumps("{{ question }}"), json.dumps(content))


CONFIGS = [
    model(f"{key} {value!r}"[:60], config(**{key: value}), says, command)
    for command, key, value, says in [
        ("actvec", "num_hidden_layers", -1, r"num_hidden_layers must be a whole number above 0, not '-1'"),
        ("eval", "num_hidden_layers", "3", "'num_hidden_layers' expected int, got str"),
        ("finetune", "num_hidden_layers", True, "'num_hidden_layers' expected int, got bool"),
        ("generate", "num_hidden_layers", 10**9, "the weight files hold 30 tensors"),
        ("actvec", "num_hidden_layers", 10**40, "the weight files hold 30 tensors"),
        ("eval", "hidden_size", 10**9, "config.json describes .* numbers, and the weight files hold 4.0e"),
        ("actvec", "hidden_size", 0, "hidden_size must be a whole number above 0"),
        ("actvec", "num_attention_heads", -4, "cannot build strange: .* negative dimension -32"),
        ("actvec", "num_key_value_heads", 10**9, "config.json describes"),
        ("finetune", "vocab_size", -1, "vocab_size must be a whole number above 0"),
        ("generate", "vocab_size", 10**12, "config.json describes"),
        ("actvec", "vocab_size", 300, "lacks 'lm_head.weight', or has it in another shape"),
        ("actvec", "intermediate_size", 10**12, "config.json describes"),
        ("finetune", "max_position_embeddings", 0, "max_position_embeddings must be a whole number above 0"),
        ("eval", "max_position_embeddings", "many", "'max_position_embeddings' expected int, got str"),
        ("actvec", "rope_parameters", {"rope_type": "nosuch"}, "transformers cannot build strange: 'nosuch'"),
        ("actvec", "dtype", "nonsense", "has no attribute 'nonsense'"),
        ("actvec", "tie_word_embeddings", "yes", "'tie_word_embeddings' expected bool, got str"),
        ("actvec", "attn_implementation", "evil/kernel", "is code on the Hub, which wsteer never runs"),
        ("generate", "eos_token_id", "end", "Field 'eos_token_id' with value 'end'"),
        ("generate", "eos_token_id", 9999, "strange: eos_token_id '9999' is no token of the model; it has 262"),
        ("eval", "eos_token_id", [-1], r"strange: eos_token_id '\[-1\]' is no token of the model"),
    ]
]
ANSWERED = "1 positive rows of 4 tokens and 1 negative ones of 4"
GENERATION = [
    model(name, written("generation_config.json", content), says, "generate", code)
    for name, content, says, code in [
        ("generation config of a list", "[]", "generation_config.json does not hold a JSON object", 1),
        ("broken generation config", "{", "generation_config.json is not valid JSON", 1),
        ("end that is a text", '{"eos_token_id": "end"}', "eos_token_id 'end' is no token", 1),
        ("ends of which one is a token", '{"eos_token_id": [257, 9999]}', ANSWERED, 0),
        ("code to generate", '{"custom_generate": "org/name"}', ANSWERED, 0),
    ]
]
TOKENIZERS = [
    model("token beyond the embedding", tokenizer("model", "vocab", "h", value=9999), r"the token 'h' \(9999\), and"),
    model(
        "token beyond the embedding",
        tokenizer("model", "vocab", "e", value=2**31),
        "the tokenizer of .*strange fails: value cannot be converted to type int32",
        "finetune",
    ),
    model("token beyond the embedding", tokenizer("model", "vocab", "e", value=300), r"'e' \(300\)", "eval"),
    model(
        "unused token beyond the embedding",
        tokenizer("model", "vocab", "\u0120\u0120", value=9999),
        "3 vectors of 32 dimensions",
        code=0,
    ),
    model("no pad, no end", changed("tokenizer_config.json", value={}), ANSWERED, "generate", 0),
    model(
        "normaliser that doubles",
        tokenizer("normalizer", value=steps(replacing({"Regex": ""}, "a"), 60)),
        "its normalizer can make a text 1e.18 times as long",
    ),
    model(
        "normaliser that writes a megabyte",
        tokenizer("normalizer", value=replacing({"String": "e"}, "e" * 10**6)),
        "its normalizer can make a text 1e.06 times as long",
    ),
    model(
        "normaliser that prepends",
        tokenizer("normalizer", value=steps({"type": "Prepend", "prepend": "x" * 100}, 20)),
        "its normalizer can make a text 1e.40 times as long",
    ),
    model(
        "decoder that writes a megabyte",
        tokenizer("decoder", value=replacing({"String": "e"}, "e" * 10**6)),
        "its decoder can make a text 1e.06 times as long",
        "generate",
    ),
    model(
        "library that panics",
        tokenizer("pre_tokenizer", value={"type": "FixedLength", "length": 0}),
        "chunk size must be non-zero",
    ),
    model(
        "regex that does not end",
        tokenizer(
            *["pre_tokenizer"],
            value={
                "type": "Split",
                "pattern": {"Regex": "((([A-Za-z ])+)+)+$"},
                "behavior": "Isolated",
                "invert": False,
            },
        ),
        "the tokenizer of .*strange fails: .*retry-limit",
    ),
    model(
        "vocabulary that is a number", tokenizer("model", "vocab", value=5), "invalid type: integer `5`, expected a map"
    ),
    model("tokenizer that is a list", written("tokenizer.json", "[]"), "tokenizer.json does not hold a JSON object"),
    model("end that is a number", changed("tokenizer_config.json", "eos_token", value=5), "Special token eos_token"),
    model("new pad", changed("tokenizer_config.json", "pad_token", value="<new>"), ANSWERED, "generate", 0),
]
TEMPLATES = [
    model(
        f"template that {name}",
        template(content),
        f"the chat template of .*strange {says}",
        command,
        hangs="more than" in says,
    )
    for name, content, says, command in [
        ("does not end", "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3, "takes more than 10 s", "generate"),
        ("allocates", "{{ 'a' * 10**12 }}", "takes too much memory", "actvec"),
        ("centres", "{{ 'a' | center(10**11) }}", "takes too much memory", "eval"),
        ("writes much", "{{ 'a' * 10**8 }}", "refuses the messages: it makes 100000000 characters", "finetune"),
        ("calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "takes too much depth", "actvec"),
        ("nests", "{% if 1 %}" * 3000 + "{% endif %}" * 3000, "takes too much depth", "finetune"),
        ("is no template", "{% for %}", "refuses the messages: Expected an expression", "generate"),
        (
            "looks for what is not there",
            "{{ messages[99].x }}",
            "refuses the messages: list object has no element 99",
            "eval",
        ),
        ("is large", "x" * 2_000_000, "is no text of up to 1000000 characters", "actvec"),
    ]
]


def without_template(value: object) -> Edit:
    def edit(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        changed("tokenizer_config.json", "chat_template", value=value)(folder)

    return edit


NAMED = [
    model("template that is a number", without_template(5), "is no text of up to"),
    model(
        "templates without a default",
        without_template([{"name": "tool", "template": "x"}]),
        "templates named tool, and none",
    ),
    model(
        "template named default",
        without_template([{"name": "default", "template": "{% for m in messages %}{{ m.content }}<end>{% endfor %}"}]),
        ANSWERED,
        "generate",
        0,
    ),
]
MALFORMED = "is not a well-formed task: "
PLAIN = '"plain"'
PROMPTS = json.dumps(yaml.safe_load(TASK)["prompts"])
TASKS = [
    *[
        task(f"a prompt named {name}", put(PLAIN, name), rf"{MALFORMED}YAML reads the name of one of the prompts as")
        for name in ("on", "yes", "1", "1.5", "null", "2024-01-01")
    ],
    task("a metric named off", put('"accuracy"', "off"), "YAML reads the name of one of the metrics as False"),
    task("a task named by a number", put('"mine"', "12"), "YAML reads the name of the task as 12"),
    task("data that is a number", put('"facts.jsonl"', "5"), "YAML reads data as 5"),
    task("a scorer named yes", put('"answer"', "yes"), "the scorer of prompt 'plain' as True"),
    task("a verdict named no", put('"correct"', "no"), "a verdict that metric 'accuracy' counts as False"),
    task("an axis named null", put('"x": "accuracy"', '"x": null'), "the metric of tradeoff x as None"),
    task("tradeoff of three", put('"x": "accuracy"', '"x": "accuracy", "z": 1'), "tradeoff has the keys x and y"),
    task("prompts in a list", put(PROMPTS, "[1]"), "prompts must be a table of names"),
    task("no prompt", put(PROMPTS, "{}"), "prompts must be a table of names"),
    task("a name with an escape", put('"mine"', r'"mi\u001b[2Jne"'), "1 to 200 printable characters"),
    task("a name with a new line", put('"accuracy"', r'"accu\nracy"'), "1 to 200 printable characters"),
    task("a name of a megabyte", put('"mine"', f'"{"a" * 100_000}"'), "1 to 200 printable characters"),
    task("a file of many megabytes", lambda text: text + "#" * 2_000_000, "more than 1 MB"),
    task(
        "merges that double",
        lambda text: "".join(
            [
                "a0: &a0 {x: 1}\n",
                *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)),
            ]
        ),
        "unfolds into more than",
    ),
    task("deep brackets", lambda text: "[" * 100_000, "reading .*mine.yaml takes too much depth"),
    *[
        task(f"{most[:20]} new tokens", put("4,", f"{most},"), says)
        for most, says in [
            ("true", "max_new_tokens must be a whole number, not True"),
            ("1.5", "max_new_tokens must be a whole number, not 1.5"),
            ('"8"', "max_new_tokens must be a whole number, not '8'"),
            ("1000000000", "max_new_tokens must be 1 or more, and at most"),
            ("9" * 5000, "mine.yaml is not YAML: .* value has 5000 digits"),
        ]
    ],
    *[
        task(
            f"a template that {name}",
            asking(content),
            f"the template of prompt 'plain' {says}",
            hangs="more than" in says,
        )
        for name, content, says in [
            ("does not end", "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3, "takes more than 10 s"),
            ("allocates", "{{ 'a' * 10**12 }}", "takes too much memory"),
            ("centres", "{{ 'a' | center(10**11) }}", "takes too much memory"),
            ("writes much", "{{ 'a' * 10**6 }}", "makes 1000000 characters of one fact"),
            ("calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "takes too much depth"),
            ("nests", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "takes too much depth"),
            ("takes what is not there", "{{ question[99] }}", "fails: str object has no element 99"),
            ("takes an attribute", "{{ question.nosuch }}", "fails: 'str object' has no attribute 'nosuch'"),
            ("encodes", "{{ '\ud800'.encode() }}", "fails: .* surrogates not allowed"),
            ("includes a file", "{% include '/etc/passwd' %}", "fails: no loader"),
        ]
    ],
    task(
        "a key twice", put('"max_new_tokens": 4', '"max_new_tokens": 4, "max_new_tokens": 8'), "max_new_tokens is given"
    ),
    task("a template that draws", asking("{{ question | random }}"), "the template of prompt 'plain' fails"),
    task(
        "a metric of dollars",
        put('"accuracy"', '"ac$cu$ra_cy^{"'),
        r"ac\$cu\$ra_cy\^\{\nbase +undefined \(1 abstained",
        0,
    ),
]
CASES: list[Case] = [*CONFIGS, *GENERATION, *TOKENIZERS, *TEMPLATES, *NAMED, *TASKS]
