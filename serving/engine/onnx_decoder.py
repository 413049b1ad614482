"""The language model's steps through onnxruntime."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch

from fourfold.serving.engine.kv_cache import KVCache
from fourfold.serving.engine.onnx_graph import WeightFormat, decoder_graph

if TYPE_CHECKING:
    from fourfold.serving.engine.model_runner import StepInput


class Decoder:
    """Runs new tokens through a LLaMA on the CPU. Not thread-safe.

    Keys and values are read and written where `KVCache` keeps them, in the same layout as by torch, so that either may
    go on where the other stopped.

    Args:
        language_model: `LlamaModel` in float32, see `can_be_built`.
        head: (vocabulary, width) of the vocabulary head.
        weights: format of the weights of products.
        slots: keys and values, in float32.
        context: tokens a row may have.
        threads: that compute.
    """

    def __init__(
        self,
        language_model: Any,
        head: torch.Tensor,
        weights: WeightFormat,
        slots: KVCache,
        context: int,
        threads: int,
    ) -> None:
        graph = decoder_graph(language_model, head, weights, context)
        # What a step reads at least: limits of speed are told from it. Of the rotations it reads a line.
        self.weight_bytes = sum(a.nbytes for name, a in graph.weights.items() if name not in ("cosines", "sines"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; it warns of what it chose itself
        options.enable_mem_pattern = False  # one would be kept for every length of prompt
        # Between steps the cores belong to torch and to the other programs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in graph.weights.values()]
        options.add_external_initializers(list(graph.weights), values)
        self._session = onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
        self._slots = slots
        self._table = language_model.embed_tokens.weight.detach().numpy()
        self._vocabulary = len(head)
        self._batch: _Batch | None = None

    def step(self, works: Sequence["StepInput"]) -> torch.Tensor:
        """Run the new tokens of all rows through the language model.

        Args:
            works: those with a single new token first.

        Returns:
            Logits (kept positions, vocabulary) in the order of `works`, to be used before the next step.
        """
        lengths = self._slots.lengths
        parts: list[torch.Tensor] = []
        singles = [work for work in works if work.count == 1]
        for run in _neighbours(singles):
            batch = self._batch_of(run[0].row, len(run))
            batch.fill(self._table, run, [lengths[work.row] for work in run])
            self._session.run_with_iobinding(batch.binding)
            parts.append(batch.logits if all(work.keep for work in run) else batch.logits[[w.keep == 1 for w in run]])
            # Another run of the same step must not write over what is returned.
            self._batch = batch if len(run) == len(singles) else None
        parts.extend(self._read(work, lengths[work.row]) for work in works[len(singles) :])
        for work in works:
            lengths[work.row] += work.count
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _batch_of(self, row: int, rows: int) -> "_Batch":
        """Buffers for a token each of neighbouring rows: those of the last step, where they fit."""
        if self._batch is None or not self._batch.fits(self._slots, row, rows):
            self._batch = _Batch(self._session, self._slots, row, rows, self._table.shape[1], self._vocabulary)
        return self._batch

    def _read(self, work: "StepInput", start: int) -> torch.Tensor:
        """Read a stretch of one row's prompt; logits (kept, vocabulary)."""
        assert work.embeds is not None
        embeds = np.ascontiguousarray(work.embeds.numpy())[None]
        end = start + work.count
        # At least one position, since products of nothing are not everywhere allowed for.
        kept = np.arange(work.count - max(work.keep, 1), work.count)
        logits = torch.empty(len(kept), self._vocabulary)
        binding = self._session.io_binding()
        feeds = {
            "embeds": embeds,
            "last": np.array([end - 1], np.int32),
            "total": np.array(end, np.int32),
            "kept": kept,
        }
        for name, array in feeds.items():
            _bind_input(binding, name, array)
        _bind_output(binding, "logits", logits.numpy())
        _bind_slots(binding, self._slots, work.row, 1)
        self._session.run_with_iobinding(binding)
        return logits[len(kept) - work.keep :]


class _Batch:
    """Buffers of a step of one token a row, bound once and used for as long as the same rows go on."""

    def __init__(
        self, session: onnxruntime.InferenceSession, slots: KVCache, row: int, rows: int, width: int, vocabulary: int
    ) -> None:
        self._place = _place(slots, row, rows)
        self._embeds = np.empty((rows, 1, width), np.float32)
        self._last = np.empty(rows, np.int32)
        self._total = np.empty((), np.int32)
        self._kept = np.arange(rows)
        self.logits = torch.empty(rows, vocabulary)
        self.binding = session.io_binding()
        feeds: dict[str, np.ndarray] = {
            "embeds": self._embeds,
            "last": self._last,
            "total": self._total,
            "kept": self._kept,
        }
        for name, array in feeds.items():
            _bind_input(self.binding, name, array)
        _bind_output(self.binding, "logits", self.logits.numpy())
        _bind_slots(self.binding, slots, row, rows)

    def fits(self, slots: KVCache, row: int, rows: int) -> bool:
        """Whether they are of these rows, and keys and values still lie where they were."""
        return self._place == _place(slots, row, rows)

    def fill(self, table: np.ndarray, works: Sequence["StepInput"], lengths: list[int]) -> None:
        """Put in each row's new token, and how many there are before it."""
        for place, work in enumerate(works):
            self._embeds[place, 0] = table[work.token] if work.embeds is None else work.embeds[0].numpy()
        self._last[:] = lengths
        self._total[...] = max(lengths) + 1


def _place(slots: KVCache, row: int, rows: int) -> tuple[object, ...]:
    """Differs wherever buffers have to be bound anew; an address alone may be given to a larger cache."""
    keys = slots.layer(0)[0]
    return keys.data_ptr(), keys.shape, row, rows


def _neighbours(works: Sequence["StepInput"]) -> list[list["StepInput"]]:
    """Works in runs of rows that lie side by side."""
    runs: list[list[StepInput]] = []
    for work in works:
        if runs and runs[-1][-1].row + 1 == work.row:
            runs[-1].append(work)
        else:
            runs.append([work])
    return runs


def _bind_slots(binding: Any, slots: KVCache, row: int, rows: int) -> None:
    for layer in range(slots.layers):
        for name, tensor in zip(("keys", "values"), slots.layer(layer), strict=True):
            array = tensor[row : row + rows].numpy()
            _bind_input(binding, f"{name}.{layer}", array)
            _bind_output(binding, f"new_{name}.{layer}", array)


def _bind_input(binding: Any, name: str, array: np.ndarray) -> None:
    binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _bind_output(binding: Any, name: str, array: np.ndarray) -> None:
    binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
