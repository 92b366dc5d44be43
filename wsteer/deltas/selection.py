"""Which part of a delta is used: layers, names, and a strength that is linear in depth."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.checkpoints.names import block_path, depth
from wsteer.deltas.choosing import check_layers, check_matching, in_layers, matching
from wsteer.deltas.delta import Delta


@dataclass(frozen=True)
class Selection:
    """The part of a delta that is used, and a strength that changes linearly with the layer (LiNeS).

    The part is taken before anything is compared with a base: what is left out need not fit it.
    """

    layers: Sequence[int] | None = None
    include: str | None = None
    exclude: str | None = None
    layer_scale: tuple[float, float] | None = None
    variant: str | None = None  # of activation vectors

    @property
    def options(self) -> dict[str, object]:
        """The options as records list them."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return self.layers is None and self.include is None and self.exclude is None

    def of(self, delta: Delta, checkpoint: Checkpoint | None) -> Delta:
        """The selected part of `delta`, scaled by layer; `checkpoint`, its base, gives the number of layers.

        Raises WsteerError if a layer or a pattern matches nothing.
        """
        self.check(delta.terms, checkpoint)
        return self.scaled(delta.part(self.kept(delta.terms, checkpoint)), checkpoint)

    def kept(self, names: Collection[str], base: Checkpoint | None = None) -> list[str]:
        """The names of the parameters that are selected; it may be none of them. The `base` tells its blocks."""
        return matching(in_layers(names, self.layers, self._blocks(base)), self.include, self.exclude)

    def check(self, names: Collection[str], base: Checkpoint | None = None) -> None:
        """Refuse a layer or a pattern that matches none of the names of all that is selected from."""
        names = sorted(names)  # for the example that a message gives: a set has no order
        blocks = self._blocks(base)
        check_layers(names, self.layers, blocks)
        check_matching(in_layers(names, self.layers, blocks), self.include, self.exclude)

    def _blocks(self, base: Checkpoint | None) -> str | None:
        return None if base is None or self.layers is None else block_path(base)

    def scaled(self, part: Delta, checkpoint: Checkpoint | None) -> Delta:
        """The selected `part` with each layer's strength; `checkpoint`, its base, gives the number of layers."""
        if self.layer_scale is None:
            return part
        if checkpoint is None:
            raise AssertionError("a scale by layer needs the base, whose config tells how many layers there are")
        part = replace(part, blocks=block_path(checkpoint))
        return part.scale_layers(*self.layer_scale, depth=depth(checkpoint))


EVERYTHING = Selection()
