"""Training the norms of a model, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from compression.adapters.base import ADAPTERS, Adapter, AdapterStart
from compression.adapters.wrapping import Wrapper
from compression.methods.base import Shape, Slot

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)


class Bystander(Wrapper):
    """A layer that is trained for from elsewhere: it computes as it does alone."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's own output."""
        result: Tensor = self.base_layer(*args, **kwargs)
        return result


@ADAPTERS.register("ln_tuning")
class LnTuning(Adapter):
    """LN-Tuning: weight and bias of all norms of the model are trained, and nothing else.

    LayerNorm, RMSNorm, GroupNorm, BatchNorm and InstanceNorm, torch's and those of other libraries
    (a class with ``Norm`` in its name whose parameters are vectors). They are trained in place, as
    new tensors, as the dense model may have the old ones; running statistics stay frozen. The
    paper tunes LayerNorm for continual learning; here norms make up for what compression did to
    the layers, whichever of these carry the rule. Stored bytes: 0 more than without it.

    Source: De Min et al., On the Effectiveness of LayerNorm Tuning for Continual Learning in Vision
    Transformers, arXiv 2308.09610; PEFT's is Zhao et al., arXiv 2312.11420.
    """

    catalogue_id = "001-156"
    ranked = scaled = by_layer = False
    # Norm weights are near 1, where factors of LoRA start at 0: as for IA3.
    lr_factor = 10.0

    def model_refusals(self, model: nn.Module) -> Iterator[str]:
        """See :meth:`Adapter.model_refusals`."""
        if not any(True for _ in norms(model)):
            yield f"{self.name}: this {type(model).__name__} has no norms with parameters to train"

    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`."""
        new: dict[int, nn.Parameter] = {}
        for norm in norms(model):
            for name, old in list(norm.named_parameters(recurse=False)):
                own = nn.Parameter(old.detach().clone())
                norm.register_parameter(name, new.setdefault(id(old), own))
        self._stand_by(model, starts)

    def _stand_by(self, model: nn.Module, layers: Iterable[str]) -> None:
        for name in layers:
            model.set_submodule(name, Bystander(model.get_submodule(name)))

    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.parameters`: none of its own; the norms belong to the model."""
        return {}

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`: nothing more is stored."""
        return {}

    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """See :meth:`Adapter.restore`: the file holds the norms where it holds all the rest."""
        self._stand_by(model, layers)

    def macs(self, shape: Shape, rank: int) -> int:
        """None."""
        return 0


def norms(model: nn.Module) -> Iterator[nn.Module]:
    """The norms of a model that have parameters."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        known = isinstance(module, _NORMS) or "Norm" in type(module).__name__
        if own and known and all(parameter.ndim == 1 for parameter in own):
            yield module
