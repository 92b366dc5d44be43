"""finetune's results with --pairs, as lines for the terminal."""

from typing import TYPE_CHECKING

from wsteer.cli.output import table

if TYPE_CHECKING:
    from wsteer.training.finetune import FinetuneReport
    from wsteer.training.seeds import SeedsReport
    from wsteer.training.train_pairs import PairsReport


def pairs_lines(report: "PairsReport") -> list[str]:
    """A line for each pair: rows, losses of both sides, norm and cosine of w; then the folder."""
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
    lines = table(["pair", "rows", f"{loss} pos", "neg", "norm of w", "cos(pos, neg)", "w"], rows)
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
