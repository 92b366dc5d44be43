"""Which part of a delta is used: layers, names, and a strength that is linear in depth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.checkpoints.names import block_path
from wsteer.deltas.delta import Delta


@dataclass(frozen=True)
class Selection:
    """The part of a delta that is used, and a strength that changes linearly with the layer (LiNeS)."""

    layers: Sequence[int] | None = None
    include: str | None = None
    exclude: str | None = None
    layer_scale: tuple[float, float] | None = None

    @property
    def options(self) -> dict[str, object]:
        """The options as records list them."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def of(self, delta: Delta, checkpoint: Checkpoint | None) -> Delta:
        """The selected part of `delta`, scaled by layer; `checkpoint`, its base, gives the number of layers.

        Raises WsteerError if a layer or a pattern matches nothing.
        """
        delta = self._with_blocks(delta, checkpoint)
        return self._scaled(delta.select_layers(self.layers).select_names(self.include, self.exclude), checkpoint)

    def of_side(self, side: Delta, checkpoint: Checkpoint | None) -> Delta:
        """The same part of one side of a difference, which may lack what the other has: it may be nothing."""
        side = self._with_blocks(side, checkpoint)
        names = set(side.terms)
        if self.layers is not None:
            names = {name for name, layer in side.layers_of().items() if layer in self.layers}
        if self.include is not None:
            names &= side.names(self.include, "--include")
        if self.exclude is not None:
            names -= side.names(self.exclude, "--exclude")
        part = replace(side, terms={name: terms for name, terms in side.terms.items() if name in names})
        return self._scaled(part, checkpoint) if names else part

    def _with_blocks(self, delta: Delta, checkpoint: Checkpoint | None) -> Delta:
        """The delta, which knows where the base's blocks are if this selection asks for layers."""
        if checkpoint is None or (self.layers is None and self.layer_scale is None):
            return delta
        return replace(delta, blocks=block_path(checkpoint))

    def _scaled(self, part: Delta, checkpoint: Checkpoint | None) -> Delta:
        if self.layer_scale is None:
            return part
        if checkpoint is None:
            raise AssertionError("a scale by layer needs the base, whose config tells how many layers there are")
        depth = checkpoint.config_number("num_hidden_layers", "n_layer")
        return part.scale_layers(*self.layer_scale, depth=depth)


EVERYTHING = Selection()
