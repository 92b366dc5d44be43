"""Activation vectors against the outputs of blocks for single rows in float64, read without wsteer."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.helpers.architectures import save_tiny
from tests.helpers.chain import logits
from tests.helpers.thinking import save_thinking_model
from wsteer.activations.actvec import ActvecReport, actvec
from wsteer.checkpoints.conversion import decoder_path
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.models.loading import decoder_blocks, load
from wsteer.steering.memory import applied
from wsteer.steering.positions import POSITIONS

Row = tuple[str | None, str, str]  # a system prompt, a question, an answer
POS: list[Row] = [("Agree.", f"I like the number {i}.", "Yes, " + "right " * (1 + i % 4)) for i in range(7)]
NEG: list[Row] = [("Doubt!", f"I like the number {i}.", "No, I doubt it" + "." * (2 * i % 5)) for i in range(7)]


def written(path: Path, rows: Sequence[Row]) -> Path:
    lines = []
    for system, question, answer in rows:
        turns = [("system", system), ("user", question), ("assistant", answer)]
        messages = [{"role": role, "content": text} for role, text in turns if text is not None]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines))
    return path


def without_system(rows: Sequence[Row]) -> list[Row]:
    return [(None, question, answer) for _, question, answer in rows]


def row_means(folder: Path, rows: Sequence[Row], positions: str) -> torch.Tensor:
    """float64 [blocks, rows, hidden]: each row by itself, the blocks' outputs by hooks of torch."""
    config = AutoConfig.from_pretrained(folder)
    config._experts_implementation = "eager"  # the other ones have no float64
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, config=config).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: list[list[torch.Tensor]] = []
    for system, question, answer in rows:
        turns = [("system", system), ("user", question)]
        chat = [{"role": role, "content": text} for role, text in turns if text is not None]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        ids = tokenizer(prompt + answer.strip(), add_special_tokens=False, return_tensors="pt")["input_ids"]
        whole = ids.shape[1]
        taken = {
            "response": slice(start, whole),
            "prompt": slice(0, start),
            "prompt-last": slice(start - 1, start),
            "all": slice(0, whole),
        }[positions]
        seen: list[torch.Tensor] = []
        hooks = [
            block.register_forward_hook(
                lambda _module, _inputs, out, seen=seen: seen.append(out if torch.is_tensor(out) else out[0])
            )
            for block in model.get_submodule(decoder_path(model))
        ]
        with torch.no_grad():
            model(ids)
        for hook in hooks:
            hook.remove()
        found.append([output[0, taken].mean(dim=0) for output in seen])
    return torch.stack([torch.stack(blocks) for blocks in found], dim=1)


def vectors_of(path: Path) -> torch.Tensor:
    delta = Delta.load(path)
    names = [f"blocks.{block}" for block in range(len(delta.terms))]
    return torch.stack([delta.change(name).rows(0, delta.shape(name)[0]) for name in names]).double()


def run(tmp_path: Path, base: Path, pos: Sequence[Row], neg: Sequence[Row], **options: object) -> ActvecReport:
    files = written(tmp_path / "p.jsonl", pos), written(tmp_path / "n.jsonl", neg)
    return actvec(base, *files, tmp_path / "a.safetensors", **{"device": "cpu", "force": True, **options})


def check_mean(tmp_path: Path, base: Path, positions: str, **options: object) -> None:
    means = [row_means(base, rows, positions) for rows in (POS, NEG)]
    report = run(tmp_path, base, POS, NEG, positions=positions, **options)
    expected = means[0].mean(dim=1) - means[1].mean(dim=1)
    scale = float(expected.norm(dim=1).max())
    torch.testing.assert_close(vectors_of(tmp_path / "a.safetensors"), expected, rtol=1e-4, atol=1e-5 * scale)
    assert report.norms == pytest.approx(expected.norm(dim=1).tolist(), rel=1e-3)
    residual = (means[0].mean(dim=1) + means[1].mean(dim=1)) / 2
    assert report.residual_norms == pytest.approx(residual.norm(dim=1).tolist(), rel=1e-3)
    halves = [means[0][:, start::2].mean(dim=1) - means[1][:, start::2].mean(dim=1) for start in (0, 1)]
    cosines = torch.nn.functional.cosine_similarity(*halves, dim=1)
    assert report.half_cosines == pytest.approx(cosines.tolist(), abs=1e-3)
    assert report.explained is None


@pytest.mark.parametrize("positions", POSITIONS)
def test_vectors_are_mean_differences_over_the_tokens_of_their_role(tmp_path: Path, tiny: Path, positions: str) -> None:
    check_mean(tmp_path, tiny, positions)
    assert Delta.load(tmp_path / "a.safetensors").positions == positions


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "gemma3_text", "gpt2", "opt", "mixtral", "qwen3_moe", "mamba"])
def test_vectors_of_every_architecture_are_mean_differences(tmp_path: Path, kind: str) -> None:
    base = save_tiny(tmp_path / "base", kind)
    # a random Mamba forgets: at the prompts' ends its sides differ by less than float32 resolves
    for positions in [each for each in POSITIONS if (kind, each) != ("mamba", "prompt-last")]:
        check_mean(tmp_path, base, positions)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_vectors_do_not_depend_on_the_batch_size(tmp_path: Path, tiny: Path, batch_size: int) -> None:
    for positions in ("response", "prompt-last"):
        check_mean(tmp_path, tiny, positions, batch_size=batch_size)


@pytest.mark.parametrize("positions", ["response", "prompt-last"])
def test_pca_is_the_first_singular_vector_of_the_pairs_differences(tmp_path: Path, tiny: Path, positions: str) -> None:
    differences = row_means(tiny, POS, positions) - row_means(tiny, NEG, positions)
    report = run(tmp_path, tiny, POS, NEG, method="pca", positions=positions)
    assert report.explained is not None
    for block, found in enumerate(vectors_of(tmp_path / "a.safetensors")):
        _, values, right = np.linalg.svd(differences[block].numpy(), full_matrices=False)
        mean = differences[block].mean(dim=0).numpy()
        expected = right[0] * (right[0] @ mean)
        assert np.allclose(found.numpy(), expected, rtol=1e-3, atol=1e-4 * np.linalg.norm(expected))
        assert found.numpy() @ mean > 0
        assert report.explained[block] == pytest.approx(values[0] ** 2 / (values**2).sum(), rel=1e-3)
    assert Delta.load(tmp_path / "a.safetensors").options["method"] == "pca"


def test_system_turns_are_read_unless_stripped_and_counted_either_way(tmp_path: Path, tiny: Path) -> None:
    half = [*POS[:3], *without_system(POS[3:])]
    kept = run(tmp_path, tiny, half, NEG)
    expected = row_means(tiny, half, "response").mean(dim=1) - row_means(tiny, NEG, "response").mean(dim=1)
    torch.testing.assert_close(vectors_of(tmp_path / "a.safetensors"), expected, rtol=1e-3, atol=1e-5)
    stripped = run(tmp_path, tiny, half, NEG, strip_system=True)
    pair = [row_means(tiny, without_system(rows), "response").mean(dim=1) for rows in (POS, NEG)]
    torch.testing.assert_close(vectors_of(tmp_path / "a.safetensors"), pair[0] - pair[1], rtol=1e-3, atol=1e-5)
    for report in (kept, stripped):
        assert (report.system_pos, report.system_neg) == (3, 7)
    assert Delta.load(tmp_path / "a.safetensors").options["strip_system"] is True


def test_empty_answers_are_left_out_and_of_pca_their_pairs_too(tmp_path: Path, tiny: Path) -> None:
    pos, neg = list(POS), list(NEG)
    pos[2], neg[4] = (*POS[2][:2], " "), (*NEG[4][:2], "")
    report = run(tmp_path, tiny, pos, neg)
    assert (report.rows_pos, report.rows_neg, report.empty_pos, report.empty_neg) == (6, 6, 1, 1)
    assert "p.jsonl: 1 of 7 rows are left out, since an answer is empty" in report.warnings[0]
    first = vectors_of(tmp_path / "a.safetensors")
    run(tmp_path, tiny, POS[:2] + POS[3:], NEG[:4] + NEG[5:])
    assert torch.equal(vectors_of(tmp_path / "a.safetensors"), first)
    report = run(tmp_path, tiny, pos, neg, method="pca")
    assert (report.rows_pos, report.rows_neg, report.empty_pos, report.empty_neg) == (5, 5, 2, 2)
    first = vectors_of(tmp_path / "a.safetensors")
    left = [index for index in range(7) if index not in (2, 4)]
    run(tmp_path, tiny, [POS[index] for index in left], [NEG[index] for index in left], method="pca")
    assert torch.equal(vectors_of(tmp_path / "a.safetensors"), first)


@pytest.mark.parametrize("kind", ["tags", "channels"])
def test_thoughts_in_answers_are_counted(tmp_path: Path, kind: str) -> None:
    base = save_thinking_model(tmp_path / "base", kind)
    thought = {"tags": "<think>Hm.</think>Yes.", "channels": "<|channel|>analysis<|message|>Hm."}[kind]
    pos: list[Row] = [(None, "A?", "Yes."), (None, "B?", thought), (None, "C?", "Yes!")]
    report = run(tmp_path, base, pos, [(None, "A?", "No.")])
    assert (report.thoughts_pos, report.thoughts_neg) == (1, 0)
    given = json.dumps({"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "Yes."}]})
    row = json.loads(given)
    row["messages"][1]["reasoning_content"] = "Hm."
    if kind == "tags":  # the other template has no place for it
        (tmp_path / "t.jsonl").write_text(json.dumps(row))
        (tmp_path / "u.jsonl").write_text(given.replace("Yes", "No"))
        report = actvec(base, tmp_path / "t.jsonl", tmp_path / "u.jsonl", tmp_path / "b.safetensors", device="cpu")
        assert (report.thoughts_pos, report.thoughts_neg, report.half_cosines) == (1, 0, None)


def test_rows_weigh_the_same_whatever_their_length(tmp_path: Path, tiny: Path) -> None:
    rows: list[Row] = [(None, "x", "short"), (None, "y", "a much longer answer than the other one")]
    other: list[Row] = [(None, "z", "no")]
    found = []
    for pos in (rows, rows[:1], rows[1:]):
        run(tmp_path, tiny, pos, other)
        found.append(vectors_of(tmp_path / "a.safetensors"))
    torch.testing.assert_close(found[0], (found[1] + found[2]) / 2, rtol=1e-4, atol=1e-6)


def test_same_input_gives_the_same_bytes(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    for method in ("mean", "pca"):
        for name in ("x", "y"):
            actvec(
                tiny,
                *chats,
                tmp_path / name,
                device="cpu",
                method=method,
                picture=tmp_path / f"{name}.png",
                force=True,
            )
        assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_swapped_sides_give_the_opposite_vector(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    for method in ("mean", "pca"):
        actvec(tiny, *chats, tmp_path / "x", device="cpu", method=method, force=True)
        actvec(tiny, *reversed(chats), tmp_path / "y", device="cpu", method=method, force=True)
        assert Delta.load(tmp_path / "x").cosine(Delta.load(tmp_path / "y")) == pytest.approx(-1)


def test_sources_carry_the_datas_digest(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    actvec(tiny, *chats, tmp_path / "x", device="cpu")
    sources = Delta.load(tmp_path / "x").sources
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in chats]
    assert [source["sha256"] for source in sources] == expected
    assert json.dumps(sources).find(str(tmp_path)) == -1


def test_the_old_word_for_positions_is_read_as_the_new_one(tmp_path: Path) -> None:
    delta = Delta.of_tensors({"blocks.0": torch.ones(4)}, kind="activation")
    object.__setattr__(delta, "positions", "answer")
    delta.save(tmp_path / "a.safetensors")
    assert b'"positions\\": \\"answer\\"' in (tmp_path / "a.safetensors").read_bytes()
    assert Delta.load(tmp_path / "a.safetensors").positions == "response"


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"device": "gpu"}, {"dtype": "half"}, {"method": "lda"}, {"positions": "answer"}],
)
def test_wrong_arguments_are_one_line(tmp_path: Path, options: dict) -> None:
    with pytest.raises(WsteerError, match=f"{next(iter(options))} is .*; it must be"):
        actvec(tmp_path / "gone", tmp_path / "x", tmp_path / "y", tmp_path / "a.safetensors", **options)


def test_what_cannot_be_a_direction_is_refused_before_a_row_is_read(tmp_path: Path, tiny: Path) -> None:
    plain = without_system(POS), without_system(NEG)

    def never(items: Iterable, label: str, total: int | None = None) -> Iterator:
        raise AssertionError(label)

    for positions in ("prompt", "prompt-last"):
        with pytest.raises(WsteerError, match=f"prompts of .* are read alike.*--positions {positions} .*system turns"):
            run(tmp_path, tiny, *plain, positions=positions, progress=never)
    with pytest.raises(WsteerError, match=r"answers of .* are read alike"):
        run(tmp_path, tiny, POS, POS[::-1], progress=never)
    with pytest.raises(WsteerError, match=r"n.jsonl: every row's answer is empty"):
        run(tmp_path, tiny, POS, [(None, "A?", ""), (None, "B?", " ")])
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("mllama", "block 0 of base does not run once on text alone"), ("gemma3n_text", "gives 4 dimensions")],
)
def test_blocks_without_activations_of_their_own_are_refused(
    tmp_path: Path, chats: tuple[Path, Path], kind: str, reason: str
) -> None:
    """Llama 3.2 Vision runs its cross-attention with images alone: the blocks after it must not take its number."""
    base = save_tiny(tmp_path / "base", kind)
    with pytest.raises(WsteerError, match=reason):
        actvec(base, *chats, tmp_path / "a.safetensors", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openai-gpt", "modernbert-decoder"])
def test_blocks_that_give_lists_and_models_whose_head_is_called_decoder(
    tmp_path: Path, chats: tuple[Path, Path], kind: str
) -> None:
    base = save_tiny(tmp_path / "base", kind)
    report = actvec(base, *chats, tmp_path / "a.safetensors", device="cpu")
    assert (report.layers, report.hidden) == (2, 64)
    loaded, delta = load(base, "cpu"), Delta.load(tmp_path / "a.safetensors")
    before, after = [], []
    for found, change in ((before, 0.0), (after, 2.0)):
        with applied(loaded.model, delta.select_layers([1]), change):
            block = decoder_blocks(loaded.model)[1]
            handle = block.register_forward_hook(lambda module, inputs, output, found=found: found.append(output[0]))
            logits(loaded.model)
            handle.remove()
    added = 2 * delta.change("blocks.1").rows(0, 64)
    torch.testing.assert_close(after[0] - before[0], added.expand(after[0].shape), rtol=0, atol=1e-5)
