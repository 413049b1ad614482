"""The language model's steps through onnxruntime, and whether its int8 is any good here."""

import os
import timeit
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, get_args

import numpy as np
import onnxruntime

from fourfold.assistant.checkpoints.mapped_weights import give_memory_back
from fourfold.serving.engine.kv_cache import KVCache, StepInput
from fourfold.serving.engine.onnx_backend.decoder_graph import WeightFormat, decoder_graph, product_graph
from fourfold.serving.engine.onnx_backend.graph import Graph, cpu_session
from fourfold.serving.engine.threads import SessionPool


class OnnxDecoder:
    """Runs new tokens through a LLaMA on the CPU. Not thread-safe.

    Keys and values are read and written where `KVCache` keeps them, in the same layout as by torch, so that either may
    go on where the other stopped.

    Args:
        tensors: of transformers' `LlamaModel` in float32, by its names for them; see `can_be_built`.
        head: (vocabulary, width) of the vocabulary head.
        config: of the language model, with transformers' names.
        weights: format of the weights of products.
        context: tokens a row may have.
        now: threads that may be used, see `SessionPool`.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        head: np.ndarray,
        config: Any,
        weights: WeightFormat,
        *,
        context: int,
        now: Callable[[], int] | None = None,
    ) -> None:
        graph: Graph | None = decoder_graph(tensors, head, config, weights, context)
        assert graph is not None
        # What a step reads at least: limits of speed are told from it. Of the rotations it reads a line.
        self.weight_bytes = sum(a.nbytes for name, a in graph.weights.items() if name not in ("cosines", "sines"))

        def make(threads: int) -> onnxruntime.InferenceSession:
            nonlocal graph
            # onnxruntime lays the weights out anew, so the first session's are not kept for the next.
            taken, graph = graph or decoder_graph(tensors, head, config, weights, context), None
            session = _session(taken, threads)
            del taken
            give_memory_back(tensors)
            return session

        self._sessions = SessionPool(make, now=now, nbytes=2 * self.weight_bytes)
        self._table = tensors["embed_tokens.weight"]
        self._vocabulary = len(head)
        self._decode_call: _Call | None = None

    def step(self, kv_cache: KVCache, inputs: Sequence[StepInput]) -> np.ndarray:
        """Run the new tokens of all rows through the language model.

        Args:
            kv_cache: of numpy, in float32.
            inputs: those with a single new token first.

        Returns:
            Logits (kept positions, vocabulary) in the order of `inputs`, to be used before the next step.
        """
        lengths = kv_cache.lengths
        parts: list[np.ndarray] = []
        decodes = [entry for entry in inputs if entry.count == 1]
        for run in _neighbours(decodes):
            call = self._decode_call_for(kv_cache, run[0].row, len(run))
            for place, entry in enumerate(run):
                call.embeds[place, 0] = self._table[entry.token] if entry.embeds is None else entry.embeds[0]
            logits = call.run([lengths[entry.row] + 1 for entry in run])
            parts.append(logits if all(entry.keep for entry in run) else logits[[entry.keep == 1 for entry in run]])
            # Another run of the same step must not write over what is returned.
            self._decode_call = call if len(run) == len(decodes) else None
        for entry in inputs[len(decodes) :]:
            assert entry.embeds is not None
            # Logits of at least one position, since products of nothing are not everywhere allowed for.
            kept = np.arange(entry.count - max(entry.keep, 1), entry.count)
            embeds = np.ascontiguousarray(entry.embeds)[None]
            logits = self._call(kv_cache, entry.row, embeds, kept).run([lengths[entry.row] + entry.count])
            parts.append(logits[len(kept) - entry.keep :])
        for entry in inputs:
            lengths[entry.row] += entry.count
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _decode_call_for(self, kv_cache: KVCache, row: int, rows: int) -> "_Call":
        """Buffers for a token each of neighbouring rows: those of the last step, where they fit."""
        call, session = self._decode_call, self._sessions.session()
        if call is None or call.session is not session or call.place != _place(kv_cache, row, rows):
            embeds = np.empty((rows, 1, self._table.shape[1]), np.float32)
            call = self._decode_call = self._call(kv_cache, row, embeds, np.arange(rows))
        return call

    def _call(self, kv_cache: KVCache, row: int, embeds: np.ndarray, kept: np.ndarray) -> "_Call":
        return _Call(self._sessions.session(), kv_cache, row, embeds, kept, self._vocabulary)


class _Call:
    """Buffers of a forward pass of neighbouring rows, bound once and used for as long as the same rows go on.

    Attributes:
        place: of their keys and values, see `_place`.
        embeds: (rows, tokens, text width), to be filled.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        kv_cache: KVCache,
        row: int,
        embeds: np.ndarray,
        kept: np.ndarray,
        vocabulary: int,
    ) -> None:
        rows = len(embeds)
        self.place = _place(kv_cache, row, rows)
        self.embeds = embeds
        self._last, self._total = np.empty(rows, np.int32), np.empty((), np.int32)
        self._kept = kept
        self._logits = np.empty((len(kept), vocabulary), np.float32)
        self.session, self._binding = session, session.io_binding()
        inputs = {"embeds": embeds, "last": self._last, "total": self._total, "kept": kept}
        for name, array in inputs.items():
            _bind(self._binding.bind_input, name, array)
        _bind(self._binding.bind_output, "logits", self._logits)
        for layer in range(kv_cache.layers):
            for name, whole in zip(("keys", "values"), kv_cache.layer(layer), strict=True):
                array = whole[row : row + rows]
                _bind(self._binding.bind_input, f"{name}.{layer}", array)
                _bind(self._binding.bind_output, f"new_{name}.{layer}", array)

    def run(self, ends: Sequence[int]) -> np.ndarray:
        """Logits (kept, vocabulary), where each row has so many tokens with the new ones."""
        self._last[:] = [end - 1 for end in ends]
        self._total[...] = max(ends)
        self.session.run_with_iobinding(self._binding)
        return self._logits


def _session(graph: Graph, threads: int) -> onnxruntime.InferenceSession:
    # Its attention by tiles reads one query left over in a tile by another kernel, as of a prompt of 129 tokens: the
    # answer would depend on what was cached. Up to some thousand tokens it is no faster.
    os.environ["ORT_GQA_DISABLE_FLASH_ATTENTION"] = "1"
    return cpu_session(graph, threads)


def _place(kv_cache: KVCache, row: int, rows: int) -> tuple[object, ...]:
    """Differs wherever buffers have to be bound anew; an address alone may be given to a larger cache."""
    keys = kv_cache.layer(0)[0]
    return keys.ctypes.data, keys.shape, row, rows


def _neighbours(inputs: Sequence[StepInput]) -> list[list[StepInput]]:
    """In runs of rows that lie side by side."""
    runs: list[list[StepInput]] = []
    for entry in inputs:
        if runs and runs[-1][-1].row + 1 == entry.row:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return runs


def _bind(bind: Callable[..., None], name: str, array: np.ndarray) -> None:
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


@cache
def int8_is_good() -> bool:
    """Whether this processor multiplies with int8 weights correctly and faster than in float32; takes milliseconds.

    onnxruntime has kernels for processors with instructions for it; on others it unpacks all weights at every product.
    """
    outputs, inputs = 4096, 1024
    # The largest sums that can come up: where a kernel adds in 16 bits, they show it.
    weight = np.ones((outputs, inputs), np.float32)
    weight[1::2] = -1
    feeds = {"inputs": np.ones((1, inputs), np.float32)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    seconds, found = [], []
    for number_format in get_args(WeightFormat):
        graph = product_graph(weight, number_format)
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        found.append(session.run(None, feeds)[0])
        seconds.append(min(timeit.repeat(partial(session.run, None, feeds), number=1, repeat=7)))
    (exact, int8), (in_float32, in_int8) = found, seconds
    return bool(np.allclose(int8, exact, rtol=0.02)) and in_int8 < in_float32
