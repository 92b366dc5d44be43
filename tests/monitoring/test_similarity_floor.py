"""The noise floor against seeded sampling of dense noise, the row spaces' overlap against scipy's principal angles."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.linalg import subspace_angles
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import wsteer
from tests.helpers.command import Cli
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.tiny import save_adapter
from wsteer.deltas.delta import Delta
from wsteer.monitoring.monitor import Settings, monitor

SHAPES = {"a.0.w": (20, 30), "a.1.w": (40, 24)}
SAMPLES = 4000


def factors(seed: int, rank: int, scale: float = 1.0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Random factors whose A's have unequal rows, and whose parameters unequal norms."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for position, (name, (out, into)) in enumerate(SHAPES.items()):
        rows = torch.linspace(1, 3, rank)[:, None] * torch.randn(rank, into, generator=generator)
        found[name] = (scale * (1 + 4 * position) * torch.randn(out, rank, generator=generator), rows)
    return found


def sampled(one: dict, other: dict, generator: np.random.Generator) -> float:
    """The spread of the cosine of noise: B (or a dense change) drawn anew, each parameter of its own norm."""

    def noise(parts: dict) -> dict[str, np.ndarray]:
        drawn = {}
        for name, part in parts.items():
            if isinstance(part, tuple):
                b, a = (factor.double().numpy() for factor in part)
                change, norm = generator.standard_normal(b.shape) @ a, np.linalg.norm(b @ a)
            else:
                change, norm = generator.standard_normal(part.shape), np.linalg.norm(part.double().numpy())
            drawn[name] = change * norm / np.linalg.norm(change)
        return drawn

    cosines = []
    for _ in range(SAMPLES):
        x, y = noise(one), noise(other)
        dot = sum((x[name] * y[name]).sum() for name in x)
        square_x, square_y = (sum((side[name] ** 2).sum() for name in side) for side in (x, y))
        cosines.append(dot / np.sqrt(square_x * square_y))
    return float(np.std(cosines))


def delta_of(parts: dict) -> Delta:
    return Delta.of_factors(parts) if isinstance(next(iter(parts.values())), tuple) else Delta.of_tensors(parts)


def dense(seed: int, slope: float = 0.0) -> dict[str, torch.Tensor]:
    """Random tensors, each larger than the one before by `slope`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (1 + slope * i) * torch.randn(shape, generator=generator)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def on_a_of(one: dict, other: dict) -> dict:
    """The B's of `other` with the A's of `one`."""
    return {name: (other[name][0][:, : len(a)], a) for name, (_, a) in one.items()}


PAIRS: dict[str, Callable[[], tuple[dict, dict]]] = {
    "own A's": lambda: (factors(1, 3), factors(2, 5, scale=0.5)),
    "shared A's": lambda: (factors(1, 3), on_a_of(factors(1, 3), factors(2, 5, scale=0.5))),
    "low-rank with dense": lambda: (factors(1, 3), dense(3, slope=1.0)),
    "dense": lambda: (dense(3, slope=1.0), dense(4)),
}


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_the_floor_is_the_spread_of_noise(tmp_path: Path, pair: Callable[[], tuple[dict, dict]]) -> None:
    one, other = pair()
    for name, parts in (("one", one), ("other", other)):
        delta_of(parts).save(tmp_path / f"{name}.safetensors")
    table = monitor([tmp_path / "one.safetensors"], tmp_path / "m", [tmp_path / "other.safetensors"]).similarity
    spread = sampled(one, other, np.random.default_rng(0))
    # a standard deviation from 4000 samples is within 5% but for one time in 10^5; the norms' own spread is neglected
    assert table.floor[0][0] == pytest.approx(spread, rel=0.06)
    assert table.z[0][0] == pytest.approx(table.cosines[0][0] / table.floor[0][0])


def test_a_shared_a_raises_the_floor(tmp_path: Path) -> None:
    """The null has the same row spaces: noise on one A is more alike than noise on two."""
    one, apart = factors(1, 3), factors(2, 3)
    together = {name: (apart[name][0], one[name][1]) for name in one}
    floors = []
    for name, parts in (("one", one), ("apart", apart), ("together", together)):
        Delta.of_factors(parts).save(tmp_path / f"{name}.safetensors")
    for name in ("apart", "together"):
        paths = (tmp_path / "one.safetensors", tmp_path / f"{name}.safetensors")
        floors.append(monitor(paths[:1], tmp_path / "m", paths[1:], force=True).similarity.floor[0][0])
    assert floors[1] > 1.5 * floors[0]


def test_the_overlap_is_the_mean_squared_cosine_of_principal_angles(tmp_path: Path) -> None:
    one, other = factors(1, 3), factors(2, 5)
    for name, parts in (("one", one), ("other", other)):
        Delta.of_factors(parts).save(tmp_path / f"{name}.safetensors")
    expected = np.mean(
        [
            (np.cos(subspace_angles(one[name][1].double().numpy().T, other[name][1].double().numpy().T)) ** 2).mean()
            for name in SHAPES
        ]
    )
    table = monitor([tmp_path / "one.safetensors"], tmp_path / "m", [tmp_path / "other.safetensors"]).similarity
    assert table.overlaps[0][0] == pytest.approx(expected, rel=1e-10)


def test_overlap_of_a_contrastive_delta_whose_sides_kept_one_a(tmp_path: Path) -> None:
    """Its stacked A has half of its rank: the doubled directions count once."""
    one = factors(1, 3)
    w = Delta.of_factors(one) - Delta.of_factors({name: (b.flip(0), a) for name, (b, a) in one.items()})
    w.save(tmp_path / "w.safetensors")
    Delta.of_factors(one).save(tmp_path / "one.safetensors")
    table = monitor([tmp_path / "w.safetensors"], tmp_path / "m", [tmp_path / "one.safetensors"]).similarity
    assert table.overlaps[0][0] == pytest.approx(1.0)
    assert table.initialisations == (("shared",),)


def with_b(folder: Path, base: Path, seed: int, b_seed: int) -> Path:
    """An adapter of the initial A of `seed`, a little moved, and the B of `b_seed`."""
    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(b_seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += 0.02 * parameter.std().nan_to_num() * noise if "lora_A" in name else 0.01 * noise
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_shared_and_independent_initialisation_are_told_apart(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    one, same, apart = (
        with_b(tmp_path / name, tiny, seed, b) for name, seed, b in (("one", 0, 1), ("same", 0, 2), ("apart", 7, 3))
    )
    ran = cli("monitor", one, "--of", same, apart, "-o", tmp_path / "m", "--json")
    assert ran.json["initialisations"] == [["shared"], ["independent"]]
    (note,) = [line for line in ran.err.splitlines() if "started from the same A" in line]
    assert "apart and one: independent; same and one: shared" in note
    alike = cli("monitor", one, "--of", same, "-o", tmp_path / "n")
    assert "started from the same A" not in alike.err


@pytest.mark.slow
def test_the_start_of_contrastive_deltas_is_told_though_their_sides_moved_apart(tmp_path: Path, tiny: Path) -> None:
    """Half of a contrastive delta's row space is the small difference between its sides' A's, which says nothing."""
    for name, seed, b in (("w", 0, 1), ("v", 0, 3), ("u", 7, 5)):
        sides = [with_b(tmp_path / f"{name}{side}", tiny, seed, b + side) for side in (0, 1)]
        wsteer.diff(*sides, tmp_path / f"{name}.safetensors")
    w, v, u = (tmp_path / f"{name}.safetensors" for name in "wvu")
    table = monitor([w], tmp_path / "m", [v, u]).similarity
    assert table.initialisations == (("shared",), ("independent",))
    assert table.overlaps[0][0] < 0.8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_row_spaces_of_layers_that_store_in_by_out(tmp_path: Path) -> None:
    """GPT-2's Conv1D: peft's A, which training starts from, is the factor on the left of the stored change."""
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=16)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    folders = []
    for name, b_seed in (("one", 1), ("other", 2)):
        torch.manual_seed(5)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2"),
            LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, base_model_name_or_path=""),
        )
        model.peft_config["default"].base_model_name_or_path = str(tmp_path / "gpt2")
        torch.manual_seed(b_seed)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_()
        model.save_pretrained(tmp_path / name)
        folders.append(tmp_path / name)
    for path in folders:
        wsteer.diff(path, output=path.with_suffix(".safetensors"), base=tmp_path / "gpt2")
    files = [path.with_suffix(".safetensors") for path in folders]
    for paths in (folders, files, (folders[0], files[1])):
        table = monitor(paths[:1], tmp_path / "m", paths[1:], Settings(base=tmp_path / "gpt2"), force=True).similarity
        assert table.overlaps[0][0] == pytest.approx(1.0)
        assert table.initialisations == (("shared",),)
    one, other = (adapter_factors(path) for path in folders)
    expected = sum(
        float(((b1 @ a1) * (b2 @ a2)).sum()) for (b1, a1), (b2, a2) in zip(one.values(), other.values(), strict=True)
    )
    assert table.dots[0][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_noise_stays_on_the_floor_and_a_signal_stands_above_it(tmp_path: Path, tiny: Path) -> None:
    """Of 40 adapters of noise Holm's test lets none pass (but for one time in 20); one that is like w passes."""
    w = save_adapter(tmp_path / "w", tiny, 0)
    noise = [save_adapter(tmp_path / f"n{seed}", tiny, seed) for seed in range(1, 41)]
    wsteer.diff(w, output=tmp_path / "w.safetensors")
    signal = Delta.load(tmp_path / "w.safetensors") * 0.1 + Delta.of_factors(adapter_factors(noise[0]))
    signal.save(tmp_path / "signal.safetensors")
    table = monitor([w], tmp_path / "m", [*noise, tmp_path / "signal.safetensors"]).similarity
    assert [above for (above,) in table.above] == [False] * 40 + [True]
    z = np.array([z for (z,) in table.z[:40]])
    assert 0.75 < z.std() < 1.25  # of 40 samples: within 2.2 standard deviations of its own
