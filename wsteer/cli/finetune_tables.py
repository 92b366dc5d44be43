"""finetune's presets and results, of one run or of pairs, as lines for the terminal."""

from typing import TYPE_CHECKING

from wsteer.cli.output import table
from wsteer.training.presets import PRESETS, TEXT

if TYPE_CHECKING:
    from wsteer.training.finetune import FinetuneReport
    from wsteer.training.seeds import SeedsReport
    from wsteer.training.train_pairs import PairsReport


def preset_lines() -> list[str]:
    """The presets with their values: the paper's text with model and data, and what its released files set besides."""
    rows = [
        [key, f"{each.lr:g}", str(each.batch_size), f"{each.max_steps} steps" if each.max_steps else "1 epoch"]
        for key, each in PRESETS.items()
    ]
    described = ["the paper's model and data; of released ones, what else differs", *map(_described, PRESETS)]
    lines = table(["preset", "lr", "batch", "length"], rows)
    return [f"{line}  {text}" for line, text in zip(lines, described, strict=True)]


def _described(name: str) -> str:
    """The model and data of a preset of the paper's text; of a released one the options that it sets besides."""
    preset = PRESETS[name]
    if name in TEXT:
        return f"{preset.model}: {preset.data}"
    values = {key: ",".join(value) if isinstance(value, tuple) else value for key, value in preset.beside.items()}
    return " ".join(
        f"--{key.replace('_', '-')} {value:g}" if isinstance(value, float) else f"--{key.replace('_', '-')} {value}"
        for key, value in values.items()
    )


def result_lines(report: "FinetuneReport") -> list[str]:
    """What was trained on which data, the losses, the choice among several rates, and the path."""
    validation = ""
    if report.val_loss is not None:
        validation = f", validation loss {report.val_loss_before:.3f} -> {report.val_loss:.3f} ({report.rows_val} rows)"
    cut = []
    if report.rows_cut:
        cut = [
            f"{report.rows_cut} rows cut at --max-length, of which {report.rows_dropped} left out "
            "because their answers begin after that"
        ]
    lines = [
        *cut,
        f"{report.steps} steps on {report.rows_train} rows of {report.tokens_per_row:.0f} tokens, "
        f"{report.trained_parameters / 1e6:.3g} M trained parameters",
        _reached_line(report),
        f"train loss {report.train_loss:.3f}{validation}",
    ]
    if len(report.rates) > 1:
        rows = [
            [f"{each['rate']:g}", str(each["step"]), "diverged" if each["diverged"] else f"{each['val_loss']:.4f}"]
            for each in report.rates
        ]
        lines += table(["lr", "best step", "validation loss"], rows)
    if len(report.rates) > 1 or report.step < report.steps:
        lines.append(f"kept: step {report.step} at lr {report.lr:g}")
    return [*lines, report.output]


def _reached_line(report: "FinetuneReport") -> str:
    """What the method reaches: modules, blocks, share of the blocks' weights."""
    from wsteer.deltas.choosing import ranges

    word = "block" if len(report.blocks) == 1 else "blocks"
    within = f" in {word} {ranges(report.blocks)}" if report.blocks else ""
    return f"trained: {', '.join(report.modules)}{within}, {report.share:.0%} of the weights of all blocks"


def pairs_lines(report: "PairsReport") -> list[str]:
    """A line for each pair: rows, losses of both sides, norm and cosine of w; then what was trained, and the folder."""
    validated = all(
        run.val_loss is not None for pair in report.pairs for side in (pair.pos, pair.neg) for run in runs(side)
    )
    loss = "validation loss" if validated else "train loss"
    rows = []
    for pair in report.pairs:
        sides = [runs(side) for side in (pair.pos, pair.neg)]
        cosine = pair.w.cos_pos_neg
        rows.append(
            [
                pair.name,
                " + ".join(str(side[0].rows_train) for side in sides),
                *(f"{mean_loss(side, validated):.3f}" for side in sides),
                f"{pair.w.norm:.4g}",
                "-" if cosine is None else f"{cosine:.3f}",
                pair.w.output,
            ]
        )
    lines = [
        *table(["pair", "rows", f"{loss} pos", "neg", "norm of w", "cos(pos, neg)", "w"], rows),
        _reached_line(runs(report.pairs[0].pos)[0]),  # the same in all: they have one recipe
    ]
    if report.kept:
        lines.append(f"kept from an earlier run: {', '.join(report.kept)}")
    return [*lines, report.output]


def runs(side: "FinetuneReport | SeedsReport") -> list["FinetuneReport"]:
    """The fine-tunes of a side: one, or one for each seed."""
    from wsteer.training.seeds import SeedsReport

    return list(side.runs) if isinstance(side, SeedsReport) else [side]


def mean_loss(fine_tunes: list["FinetuneReport"], validated: bool) -> float:
    """The mean of the losses of the steps that were kept."""
    losses = [each.val_loss if validated and each.val_loss is not None else each.train_loss for each in fine_tunes]
    return sum(losses) / len(losses)
