"""LoRA adapters of a running engine: loaded, chosen by name, unloaded."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.adapter_files import check_adapter_files

BASE = 0  # serial number of "no adapter"


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter.

    Attributes:
        name: what requests call it.
        path: where it came from.
        serial: counts loads, so that what was cached under a name that was unloaded is never taken for its successor's.
    """

    name: str
    path: Path
    serial: int


class LoRAManager:
    """The adapters of one model. `load`, `delete` and `use` belong to the model's thread.

    Args:
        model: takes the LoRA layers.
    """

    def __init__(self, model: MiniGPTv2ForConditionalGeneration) -> None:
        self.loaded: dict[str, Adapter] = {}
        self._model = model
        self._serial = BASE
        self._in_use = BASE
        self._live = {BASE}
        self._replaced: dict[str, Adapter] = {}
        self._layers: list[Any] = []  # PEFT's; importing it takes a second that most starts need not spend

    def serial(self, name: str) -> int:
        """Serial number of the adapter called `name`, `BASE` for "".

        Raises:
            UserError: there is none of that name.
        """
        if not name:
            return BASE
        if name not in self.loaded:
            raise UserError(f"no adapter is called {name!r}; loaded: {', '.join(sorted(self.loaded)) or 'none'}")
        return self.loaded[name].serial

    def load(self, name: str, path: Path) -> Adapter:
        """Add an adapter that PEFT saved. Every tensor of the file must find its place, and every place its tensor.

        Raises:
            UserError: the name is taken or empty, or the adapter is unreadable or does not fit.
        """
        if not name or name in self.loaded:
            raise UserError(f"an adapter called {name!r} is loaded already" if name else "an adapter needs a name")
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
        outlived = self._replaced.get(name)
        self._replaced[name] = self.loaded[name]
        self.loaded[name] = adapter
        return adapter, outlived

    def _add(self, name: str, path: Path) -> Adapter:
        import peft

        check_adapter_files(path)
        self._serial += 1
        label = f"fourfold_{self._serial}"
        try:
            config = peft.PeftConfig.from_pretrained(str(path))
            config.inference_mode = True
            weights = {
                key.removeprefix("base_model.model."): tensor
                for key, tensor in peft.load_peft_weights(str(path), device="cpu").items()
            }
            with warnings.catch_warnings():
                # PEFT wonders at a second adapter; several are the point here.
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                peft.inject_adapter_in_model(config, self._model, label)
            self._model.eval()  # PEFT's new layers come in training mode, with their dropout
            result = peft.set_peft_model_state_dict(self._model, weights, label)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            self._remove_layers(label)
            raise UserError(f"cannot load the adapter {path}: {str(error).splitlines()[0]}") from error
        missing = [key for key in result.missing_keys if label in key]
        if missing or result.unexpected_keys:
            self._remove_layers(label)
            what, keys = ("lacks", missing) if missing else ("has weights that nothing takes:", result.unexpected_keys)
            raise UserError(f"the adapter {path} does not fit this model: it {what} {keys[0]} and {len(keys) - 1} more")
        self._layers = self._tuner_layers()
        self._live.add(self._serial)
        self._activate(self._in_use)
        return Adapter(name, path, self._serial)

    def withdraw(self, name: str) -> list[Adapter]:
        """Forget the name, so that no new request can ask for it; `delete` frees the memory of what is returned."""
        self.serial(name)
        replaced = self._replaced.pop(name, None)
        return [self.loaded.pop(name), *([replaced] if replaced else [])]

    def delete(self, serial: int) -> None:
        """Free an adapter's weights."""
        self._live.discard(serial)
        self._remove_layers(f"fourfold_{serial}")

    def use(self, serial: int) -> None:
        """Send the next forward passes through this adapter, or none for `BASE`.

        Raises:
            UserError: it was deleted between the asking and now.
        """
        if serial not in self._live:
            raise UserError("the adapter was unloaded just now")
        if serial != self._in_use:
            self._activate(serial)

    def _activate(self, serial: int) -> None:
        active = [f"fourfold_{serial}"] if serial != BASE else []
        for layer in self._layers:
            layer.set_adapter(active, inference_mode=True)
        self._in_use = serial

    def _tuner_layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in self._model.modules() if isinstance(module, BaseTunerLayer)]

    def _remove_layers(self, label: str) -> None:
        for layer in self._tuner_layers():
            layer.delete_adapter(label)
        getattr(self._model, "peft_config", {}).pop(label, None)
        self._activate(self._in_use)  # PEFT activates another adapter in place of one that goes
