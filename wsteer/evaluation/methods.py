"""What is compared: deltas, checkpoints, prompts and controls as conditions, each with what it adds to the model."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.checkpoints.architecture import read_config
from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.deltas.blocks import block_text, blocks_on, check_chosen, varied
from wsteer.deltas.controls import control
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import ChangeInput, checkpoints_in, open_change
from wsteer.deltas.model_input import short_name
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError
from wsteer.evaluation.attribution import ablations
from wsteer.evaluation.calibration import calibrate
from wsteer.evaluation.compared import EACH, Added, By, Compared
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.subject import Subject
from wsteer.files.rows import Message
from wsteer.files.text import read_text
from wsteer.progress import Progress
from wsteer.steering.combination import base_notes, check_k
from wsteer.steering.memory import activation_vectors
from wsteer.steering.positions import POSITIONS

MOST_PROMPT = 10**6  # characters of a system prompt
NAME_OF_FILE = re.compile(r"\S+\.(?:txt|md)|\S*/\S+")  # what is a path rather than a prompt, which has spaces


@dataclass(frozen=True)
class Method:
    """One line of the comparison: what is added to the model, or said before the chat, and the k of each point."""

    condition: Condition  # of any k: all else that the points have in common
    ks: tuple[float, ...]
    delta: Delta | None = None

    def points(self, **settings: object) -> Iterator[tuple[Condition, Delta | None]]:
        """The condition of each k, and what it adds times k."""
        for k in self.ks:
            yield replace(self.condition, k=k, **settings), self.delta  # type: ignore[arg-type]


@dataclass(frozen=True)
class Methods:
    """The methods that are compared with the model as it is, as `lines`, and the inputs that they were opened from."""

    lines: tuple[Method, ...] = ()
    inputs: tuple[ChangeInput, ...] = ()
    files: tuple[Path, ...] = ()  # of system prompts
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what others call the blocks of activation vectors

    def conditions(self, **settings: object) -> dict[Condition, Delta | None]:
        """All conditions with what each adds, the base first; `settings` are those that all have in common."""
        found: dict[Condition, Delta | None] = {Condition(BASE, **settings): None}  # type: ignore[arg-type]
        for method in self.lines:
            found.update(method.points(**settings))
        return found

    def at_kl(
        self,
        subject: Subject,
        settings: Mapping[str, object],
        chats: Sequence[Sequence[Message]],
        target: float,
        progress: Progress,
    ) -> "Methods":
        """The same with the k of each delta, of both signs, whose KL to the model as it is reaches `target` nats.

        It is measured on the model's own greedy answers to `chats`. A sign that does not reach it has no condition.
        """
        lines, warnings = [], dict.fromkeys(self.warnings)
        for line in self.lines:
            if line.delta is not None and line.condition.step is None:
                condition = replace(line.condition, **settings)  # type: ignore[arg-type]
                found = calibrate(subject, line.delta, condition, chats, target, progress=progress)
                line = replace(line, ks=found.ks)
                warnings.update(dict.fromkeys(found.warnings))
            lines.append(line)
        return replace(self, lines=tuple(lines), warnings=tuple(warnings))

    @property
    def paths(self) -> list[str | Path]:
        """All that was read for them."""
        return [*(given.reference for given in self.inputs), *self.files]

    @property
    def folders(self) -> list[Path]:
        """The folders of the inputs that have one of their own: a chat template may be in them."""
        return [given.files[0].parent for given in self.inputs if not Path(given.reference).is_file()]


def placed(compared: Compared, checkpoint: Checkpoint) -> Compared:
    """The same with a depth in percent as the number of the block that is there in this model."""
    added = [
        each if each.layers == EACH else replace(each, layers=blocks_on(each.layers, checkpoint))
        for each in compared.added
    ]
    return replace(compared, added=added)


def open_methods(checkpoint: Checkpoint, compared: Compared, seed: int = 0) -> Methods:
    """Open everything that is compared and check it against headers and config.json, before the model is loaded.

    All is `placed`. `seed` is that of the random controls. Raises WsteerError for what does not fit, and for two
    methods of one name.
    """
    positions = compared.positions
    if positions not in POSITIONS:
        raise WsteerError(f"positions is {positions!r}; it must be one of {', '.join(POSITIONS)}")
    for k in compared.ks or ():
        check_k(k)
    ks = tuple(dict.fromkeys(k + 0.0 for k in compared.ks or (1.0,) if k))
    methods: list[Method] = []
    notes: list[str] = []
    inputs: list[ChangeInput] = []
    warnings: dict[str, None] = {}
    for each in compared.added:
        opened, given = _of_delta(checkpoint, each, ks, positions)
        inputs.append(given)
        warnings.update(dict.fromkeys(base_notes(str(each.reference), given.delta, checkpoint)))
        notes += _block_notes(each.name or short_name(each.reference), opened, checkpoint)
        for method in opened:
            methods += [method, *(_controlled(method, kind, seed) for kind in compared.controls)]
    if compared.attribute is not None:
        methods += _parts(methods, compared.attribute, checkpoint, seed)
    for folder in compared.checkpoints:
        for step, path in _steps(folder).items():
            given = open_change(path, "checkpoint", checkpoint, added=_hooked_biases)
            inputs.append(given)
            condition = Condition(short_name(folder), delta=_digest(given), step=step)
            methods.append(Method(condition, (1.0,), given.delta))
    prompts = [read_system(text) for text in compared.systems]
    for number, (name, prompt, _) in enumerate(prompts, 1):
        name = name or ("system" if len(prompts) == 1 else f"system {number}")
        methods.append(Method(Condition(name, system=prompt), (0.0,)))
    _check_names(methods)
    files = tuple(file for _, _, file in prompts if file is not None)
    return Methods(tuple(methods), tuple(inputs), files, tuple(warnings), tuple(notes))


def _digest(given: ChangeInput) -> str:
    return str(given.source["sha256"])


def _of_delta(
    checkpoint: Checkpoint, wanted: Added, ks: tuple[float, ...], positions: str
) -> tuple[list[Method], ChangeInput]:
    """The methods of one delta: one, or one for each block that is tried by itself."""
    reference, each = wanted.reference, wanted.layers == EACH
    assert each or not isinstance(wanted.layers, str), "a depth is not placed"
    layers = None if isinstance(wanted.layers, str) or wanted.layers is None else tuple(wanted.layers)
    selection = Selection(layers)
    given = open_change(reference, "delta", checkpoint, selection, _hooked_biases)
    name, delta = wanted.name or short_name(reference), given.delta
    condition = Condition(name, delta=_digest(given), layers=layers)
    if delta.kind != "activation":
        if each or wanted.variant is not None:
            what = "--layers each tries" if each else f"--variant {wanted.variant} adds"
            raise WsteerError(
                f"{reference} is a change of weights, and {what} activation vectors: say so of those alone, as --delta "
                f"a.safetensors@{EACH if each else wanted.variant}, and of a change of weights use --attribute layers"
            )
        selection.check({*delta.terms, *given.left_out}, checkpoint)
        return [Method(condition, ks, delta)], given
    blocks = sorted(int(name.removeprefix("blocks.")) for name in delta.terms)
    sizes = read_config(checkpoint).get_text_config()
    activation_vectors(delta, sizes.num_hidden_layers, sizes.hidden_size)
    condition = replace(condition, positions=positions)
    check_chosen(str(reference), len(blocks), wanted.layers, wanted.variant, " (or each, to try them all)")
    if wanted.variant is not None:
        whole = varied(delta, wanted.variant, sizes.num_hidden_layers)
        named = name if wanted.name is not None else f"{name}@{wanted.variant}"
        return [Method(replace(condition, method=named, variant=wanted.variant), ks, whole)], given
    if each:
        if len(ks) != 1:
            raise WsteerError(f"{reference}: --layers each tries every block at one k; give one, as --k 1")
        return [_at_blocks(condition, ks, delta, (block,)) for block in blocks], given
    return [_at_blocks(condition, ks, delta, layers or tuple(blocks), named=wanted.name is not None)], given


def _at_blocks(
    condition: Condition, ks: tuple[float, ...], delta: Delta, blocks: tuple[int, ...], named: bool = False
) -> Method:
    """The method that adds the vectors of these blocks; its name tells them, unless the user gave it a name."""
    name = condition.method if named else f"{condition.method}@{','.join(map(str, blocks))}"
    return Method(replace(condition, method=name, layers=blocks), ks, delta.select_layers(blocks))


def _block_notes(name: str, methods: Sequence[Method], checkpoint: Checkpoint) -> Iterator[str]:
    """A line that says what others call the blocks at which activation vectors are added."""
    deltas = [method.delta for method in methods if method.delta is not None and method.delta.kind == "activation"]
    blocks = sorted({int(term.removeprefix("blocks.")) for delta in deltas for term in delta.terms})
    count = read_config(checkpoint).get_text_config().num_hidden_layers
    if blocks:
        ends = blocks if len(blocks) < 3 else (blocks[0], blocks[-1])
        joint = " and " if len(blocks) < 3 else " to "
        yield f"{name} is added at {joint.join(block_text(block, count) for block in ends)}"


def _controlled(method: Method, kind: str, seed: int) -> Method:
    assert method.delta is not None
    condition = replace(method.condition, method=f"{method.condition.method} {kind}", control=kind)
    return Method(condition, method.ks, control(method.delta, kind, seed))


def _parts(methods: Sequence[Method], by: By, checkpoint: Checkpoint, seed: int) -> list[Method]:
    """The parts of the one change of weights that is compared, kept and dropped, and a random one like each kept."""
    whole = [method for method in methods if method.condition.control is None]
    delta = whole[0].delta if len(whole) == 1 else None
    if delta is None or delta.kind == "activation" or len(whole[0].ks) != 1:
        raise WsteerError(f"--attribute {by} takes one change of weights, as --delta w.safetensors, and one k")
    found = []
    for ablation in ablations(delta, by, checkpoint, seed):
        name = whole[0].condition.method + (f" {ablation.control}" if ablation.control else "")
        condition = replace(whole[0].condition, method=name, part=ablation.part, control=ablation.control)
        found.append(Method(condition, whole[0].ks, ablation.delta))
    return found


def _steps(folder: str | Path) -> Mapping[int, Path]:
    found = checkpoints_in(folder)
    if not found:
        raise WsteerError(f"{folder} holds no folders checkpoint-N; of a finished training give --delta {folder}")
    return found


def read_system(given: str) -> tuple[str | None, str, Path | None]:
    """A system prompt: (its file's name, the text, the file), or the text alone where no file has that name."""
    path = None
    with contextlib.suppress(OSError, ValueError):  # a text may be too long for a name
        path = Path(given) if Path(given).is_file() else None
    if path is None and NAME_OF_FILE.fullmatch(given):
        raise WsteerError(f"--system {given}: there is no such file; a prompt that looks like a name needs a space")
    text = given if path is None else read_text(path).strip()
    if not text.strip() or len(text) > MOST_PROMPT:
        raise WsteerError(f"{path or '--system'} is no system prompt: it has {len(text)} characters")
    return (None if path is None else path.stem), text, path


def _check_names(methods: Sequence[Method]) -> None:
    seen: set[str] = set()
    for method in methods:
        for condition, _ in method.points():
            if condition.label in seen or condition.method == BASE:
                prompt = "give each prompt once, and rename the file of one"
                mend = prompt if condition.system else "give a delta a name of its own, as --delta NAME=DELTA"
                raise WsteerError(f"two conditions would be named {condition.label!r}; {mend}")
            seen.add(condition.label)


def _hooked_biases(delta: Delta, checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shapes of biases that the model lacks; they are added to the output of their modules."""
    weights = {name: checkpoint.tensors.get(f"{name.removesuffix('.bias')}.weight") for name in delta.terms}
    return {
        name: weight.shape[:1]
        for name, weight in weights.items()
        if name.endswith(".bias") and name not in checkpoint.tensors and weight is not None
    }
