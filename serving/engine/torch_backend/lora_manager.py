"""LoRA adapters of a running engine: loaded, chosen by name, unloaded."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.assistant.checkpoints.adapter_files import check_adapter_files
from fourfold.prompts.errors import UserError, first_line

if TYPE_CHECKING:  # it brings torch; a command that only looks at an adapter's files need not wait for that
    import torch

    from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration

BASE = 0
"""The `lora_id` of "no adapter"."""


class NameTaken(UserError):
    """Another adapter is loaded under that name."""


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter.

    Attributes:
        name: what requests call it.
        path: where it came from.
        lora_id: counts loads, so that what was cached under a name that was unloaded is never its successor's.
    """

    name: str
    path: Path
    lora_id: int


class LoRAManager:
    """The adapters of one model. `load`, `delete` and `use` belong to the model's thread.

    Args:
        load_model: gives the model in torch, always the same; asked for when the first adapter comes.
    """

    def __init__(self, load_model: "Callable[[], MiniGPTv2ForConditionalGeneration]") -> None:
        self.loaded: dict[str, Adapter] = {}
        self._load_model = load_model
        self._model: Any = None
        self._last_id = BASE
        self._in_use = BASE
        self._live = {BASE}
        self._predecessors: dict[str, Adapter] = {}
        self._layers: list[Any] = []  # PEFT's; importing it takes a second that most starts need not spend

    def lora_id(self, name: str) -> int:
        """Of the adapter called `name`; `BASE` for "".

        Raises:
            UserError: there is none of that name.
        """
        if not name:
            return BASE
        if name not in self.loaded:
            raise UserError(f"no adapter is called {name!r}; loaded: {', '.join(sorted(self.loaded)) or 'none'}")
        return self.loaded[name].lora_id

    def load(self, name: str, path: Path) -> Adapter:
        """Add an adapter that PEFT saved. Every tensor of the file must find its place, and every place its tensor.

        Raises:
            NameTaken: the name is taken.
            UserError: it is empty, or the adapter is unreadable or does not fit.
        """
        if not name:
            raise UserError("an adapter needs a name")
        if name in self.loaded:
            raise NameTaken(f"an adapter called {name!r} is loaded already")
        self.loaded[name] = self._add(name, path)
        return self.loaded[name]

    def replace(self, name: str, path: Path) -> tuple[Adapter, Adapter | None]:
        """Give the name to another adapter; `load` where nothing has it.

        Returns:
            The new one, and one that may be deleted now. That is the one before the one that is replaced: a request
            that has just asked for the name may still be on its way with the latter.

        Raises:
            UserError: as `load`; the name keeps its adapter.
        """
        if name not in self.loaded:
            return self.load(name, path), None
        adapter = self._add(name, path)
        superseded = self._predecessors.get(name)
        self._predecessors[name] = self.loaded[name]
        self.loaded[name] = adapter
        return adapter, superseded

    def _add(self, name: str, path: Path) -> Adapter:
        import peft
        import torch

        from fourfold.serving.engine.torch_backend.lora_files import check_fit, check_strength, read_adapter

        check_adapter_files(path)
        config, weights = read_adapter(path)
        self._model = self._load_model()
        self._last_id += 1
        label = f"fourfold_{self._last_id}"
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                # PEFT wonders at a second adapter; several are the point here.
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                peft.inject_adapter_in_model(config, self._model, label)
                self._model.eval()  # PEFT's new layers come in training mode, with their dropout
                check_fit(self._needed(label), weights)
                check_strength(self._scales(label), weights)
                peft.set_peft_model_state_dict(self._model, weights, label)
        except UserError as error:
            self._remove_layers(label)
            raise UserError(f"the adapter {path} does not fit this model: {error}") from None
        except Exception as error:  # PEFT trusts its configuration, and whatever is wrong with it must leave no layers
            self._remove_layers(label)
            raise UserError(f"cannot load the adapter {path}: {first_line(error)}") from error
        self._layers = self._tuner_layers()
        self._live.add(self._last_id)
        self._activate(self._in_use)
        return Adapter(name, path, self._last_id)

    def _needed(self, label: str) -> "dict[str, torch.Size]":
        """Sizes of an adapter's weights by the names that they have in its file."""
        return {
            name.replace(f".{label}", "").replace("magnitude_vector.weight", "magnitude_vector"): weight.shape
            for name, weight in self._model.named_parameters()
            if f".{label}" in name
        }

    def _scales(self, label: str) -> dict[str, float]:
        from peft.tuners.lora import LoraLayer

        layers = ((name, layer) for name, layer in self._model.named_modules() if isinstance(layer, LoraLayer))
        return {name: float(layer.scaling[label]) for name, layer in layers if label in layer.scaling}

    def unregister(self, name: str) -> list[Adapter]:
        """Forget the name, so that no new request can ask for it; `delete` frees the memory of what is returned."""
        self.lora_id(name)
        gone = [self.loaded.pop(name), self._predecessors.pop(name, None)]
        return [adapter for adapter in gone if adapter is not None]

    def delete(self, lora_id: int) -> None:
        self._live.discard(lora_id)
        self._remove_layers(f"fourfold_{lora_id}")

    def use(self, lora_id: int) -> None:
        """Send the next forward passes through this adapter, or none for `BASE`.

        Raises:
            UserError: it was deleted between the asking and now.
        """
        if lora_id not in self._live:
            raise UserError("the adapter was unloaded just now")
        if lora_id != self._in_use:
            self._activate(lora_id)

    def _activate(self, lora_id: int) -> None:
        active = [f"fourfold_{lora_id}"] if lora_id != BASE else []
        for layer in self._layers:
            layer.set_adapter(active, inference_mode=True)
        self._in_use = lora_id

    def _tuner_layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in self._model.modules() if isinstance(module, BaseTunerLayer)]

    def _remove_layers(self, label: str) -> None:
        import torch

        with torch.inference_mode():  # as they were made; PEFT makes weights trainable that it activates
            for layer in self._tuner_layers():
                layer.delete_adapter(label)
        getattr(self._model, "peft_config", {}).pop(label, None)
        self._activate(self._in_use)  # PEFT activates another adapter in place of one that goes
