"""The local engine: a checkpoint in, answers out, in one process.

Requests go through one scheduler whoever sends them: a script with a list, a chat that streams, or the HTTP server.
"""

import collections.abc
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fourfold.assistant import machine
from fourfold.assistant.checkpoints.adapter_files import check_adapter_files, check_adapter_size
from fourfold.assistant.checkpoints.hub.download import checkpoint_name
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.loading import Checkpoint, DtypeName, Quantization, choose_device, load_checkpoint
from fourfold.serving.engine.model_runner import ModelRunner
from fourfold.serving.engine.onnx_backend.model import OnnxModel
from fourfold.serving.engine.prompt.builder import PromptBuilder, PromptImage
from fourfold.serving.engine.requests import Completion, Delta, EngineClosed, QueueFull, Request, Sampling, TokenLogprob
from fourfold.serving.engine.sampling.draw import Sampler
from fourfold.serving.engine.sampling.logits_processors import bad_word_tokens
from fourfold.serving.engine.sampling.structured_outputs import GrammarCompiler, form_of
from fourfold.serving.engine.scheduler import Scheduler, Stats
from fourfold.serving.engine.scoring import Ranker, mean_log_likelihoods
from fourfold.serving.engine.sequence import Sequence
from fourfold.serving.engine.torch_backend.lora_manager import Adapter, LoRAManager

__all__ = [
    "Completion",
    "Delta",
    "Engine",
    "EngineClosed",
    "QueueFull",
    "Request",
    "Sampling",
    "Sequence",
    "Stats",
    "TokenLogprob",
]


class Engine:
    """A loaded model that answers. Every method may be called from any thread.

    Use `load`; and `close`, or a `with` block, to free the thread.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, *, max_num_seqs: int = 16, max_waiting: int = 64) -> None:
        config, base = checkpoint.config, checkpoint.base
        self.model_name = name
        self.context_length = checkpoint.context_length
        self.image_size = checkpoint.image_size
        self.end_ids = checkpoint.end_ids
        self.device, self.dtype, self.weight_bytes = base.device, base.dtype, base.weight_bytes
        self.default_adapter = ""
        self.checkpoint: Path | None = None  # where it was loaded from
        self._tokenizer = checkpoint.processor.tokenizer
        self._vocab_size: int = config.text_config.vocab_size
        self._prompt_builder = PromptBuilder(checkpoint.processor, self.context_length, self.end_ids)
        self._grammars = GrammarCompiler(self._tokenizer, self._vocab_size, self.end_ids)
        cuda = self.device.startswith("cuda")
        memory = machine.memory()[1] if isinstance(base, OnnxModel) or not cuda else base.free_memory()
        self.model_runner = ModelRunner(
            config,
            base,
            checkpoint.load_in_torch,
            context=self.context_length,
            cache_bytes=memory // 2,
            feature_bytes=min(128 * 2**20, memory // 16),
        )
        self._adapters = LoRAManager(lambda: self.model_runner.in_torch.model)
        self._max_num_seqs = max_num_seqs
        # Not what is free at the time: the same question is read in the same way.
        self._ranking_rows = min(max_num_seqs, self.model_runner.kv_cache.rows_of(self.context_length))
        self._scheduler = Scheduler(
            self.model_runner,
            self._adapters,
            prefix_cache_bytes=memory // 8 if cuda else min(256 * 2**20, memory // 8),
            max_num_seqs=max_num_seqs,
            max_waiting=max_waiting,
            max_num_batched_tokens=4096 if cuda else 256,
            suppress_tokens=checkpoint.suppress_tokens,
        )

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        quantization: Quantization | None = None,
        dtype: DtypeName = "auto",
        device: str = "auto",
        adapter: str | Path | None = None,
        name: str | None = None,
        max_num_seqs: int = 16,
        max_waiting: int = 64,
    ) -> "Engine":
        """Load a checkpoint.

        Args:
            directory: an ordinary transformers checkpoint with its processor.
            quantization: of the language model, by bitsandbytes.
            dtype: see `choose_format`; "int8" is for the language model.
            device: "auto" for CUDA where there is one.
            adapter: directory of a LoRA adapter, then the default one, called by its directory's name.
            name: of the model; by default the directory's.
            max_num_seqs: answers made at the same time.
            max_waiting: requests that may wait in `submit`.

        Raises:
            UserError: the checkpoint, the adapter or an option is unusable; one line says why.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise UserError(f"no such checkpoint directory: {directory}")
        loaded = load_checkpoint(directory, dtype, choose_device(device), quantization)
        engine = cls(loaded, name or checkpoint_name(directory), max_num_seqs=max_num_seqs, max_waiting=max_waiting)
        engine.checkpoint = directory
        if adapter is not None:
            try:
                engine.default_adapter = engine.load_adapter(Path(adapter).resolve().name, adapter).name
            except UserError:
                engine.close()
                raise
        return engine

    def generate(self, requests: collections.abc.Sequence[Request]) -> list[Completion]:
        """Answer all requests, as many at the same time as there is room for; results in their order.

        Raises:
            UserError: a request is malformed or too long for the context.
        """
        pending: deque[Sequence] = deque()
        done: list[Completion] = []
        try:
            for request in requests:
                # A little ahead of the model is enough: thousands of resized images would fill the memory.
                if len(pending) >= 2 * self._max_num_seqs:
                    done.append(pending[0].result())
                    pending.popleft()
                pending.append(self._new_sequence(request))
                self._scheduler.submit(pending[-1], bounded=False)
            while pending:
                done.append(pending[0].result())
                pending.popleft()
        finally:  # an error or an interrupt must not leave the rest running
            for sequence in pending:
                sequence.cancel()
        return done

    def stream(self, request: Request, cancel: threading.Event | None = None) -> Generator[Delta, None, None]:
        """The answer piece by piece; the last piece carries the completion.

        When `cancel` is set, the answer ends with the reason "cancelled" at its next piece; closing the iterator
        ends it as well.

        Raises:
            UserError: as `generate`.
        """
        sequence = self._new_sequence(request)
        self._scheduler.submit(sequence, bounded=False)
        try:
            for delta in sequence:
                if cancel is not None and cancel.is_set():
                    sequence.cancel()
                yield delta
        finally:
            sequence.cancel()

    def submit(self, request: Request, on_delta: Callable[[Delta | Exception], object] | None = None) -> Sequence:
        """Queue a request and return at once, after preparing its prompt and images.

        `on_delta` gets every piece on the engine's thread, or the exception that ended the answer, in place of the
        returned object's iterator.

        Raises:
            UserError: as `generate`.
            QueueFull: too many requests wait.
            EngineClosed: the engine was closed.
        """
        sequence = self._new_sequence(request, on_delta)
        self._scheduler.submit(sequence)
        return sequence

    def score(self, request: Request, candidates: collections.abc.Sequence[str]) -> list[float]:
        """Mean log-likelihood of each candidate as the answer, over its own tokens (the end of turn not counted).

        Raises:
            UserError: the request is malformed or too long, or a candidate is empty.
        """
        if not candidates:
            return []
        prepared = self._prompt_builder.candidates(request.messages, candidates, request.template)
        lora_id = self._lora_id(request)

        def run() -> list[float]:
            self._adapters.use(lora_id)
            return mean_log_likelihoods(
                self.model_runner, self._scheduler.prefix_cache, lora_id, prepared, self._ranking_rows
            )

        return self._scheduler.call(run)

    def ranker(self, context: Request) -> Ranker:
        """Reads a context once and ranks the answers to many questions about it; its sampling is of no interest.

        Raises:
            UserError: no adapter has that name.
        """
        return Ranker(
            self._prompt_builder,
            self._scheduler,
            self.model_runner,
            self._adapters,
            lora_id=self._lora_id(context),
            rows=self._ranking_rows,
            context=context.messages,
            template=context.template,
        )

    @property
    def declares_tools(self) -> bool:
        """Whether the checkpoint's chat template tells the model which tools there are."""
        return self._prompt_builder.processor.template.declares_tools

    def prompt_tokens(self, request: Request) -> list[int]:
        """The tokens of a request's prompt, which may be longer than the context.

        Raises:
            UserError: the conversation is malformed.
        """
        return self._prompt_builder.tokens(request.messages, request.rendering)

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text as it is, without a chat template; special tokens in it are what they spell."""
        return self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]

    def token_strings(self, token_ids: collections.abc.Sequence[int]) -> list[str]:
        """The tokens by the names that the vocabulary has for them.

        Raises:
            UserError: a number is no token.
        """
        self.check_tokens(token_ids)
        return self._tokenizer.convert_ids_to_tokens(token_ids)

    def detokenize(self, token_ids: collections.abc.Sequence[int]) -> str:
        """The text of tokens, special ones included.

        Raises:
            UserError: a number is no token.
        """
        self.check_tokens(token_ids)
        return self._tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)

    def check_tokens(self, token_ids: Iterable[int]) -> None:
        """Refuse numbers that are no tokens.

        Raises:
            UserError: one is none.
        """
        size = len(self._tokenizer)
        if unknown := [token for token in token_ids if not 0 <= token < size]:
            raise UserError(f"{unknown[0]} is no token; there are {size}, from 0 to {size - 1}")

    def vision_features(self, image: Image.Image) -> np.ndarray:
        """What the vision tower makes of a picture, as float32 (rows, columns, vision width): its last kept block.

        The picture is encoded once for this and for all that is asked about it, whichever comes first.
        """
        shown = PromptImage(image, self._prompt_builder.processor.pixels)
        if shown.digest not in self.model_runner.feature_cache:
            _ = shown.pixel_values
        features = self._scheduler.call(lambda: self.model_runner.features_of([shown])[0])
        side = math.isqrt(len(features))
        return features.reshape(side, side, -1)

    @property
    def adapters(self) -> list[Adapter]:
        return list(self._adapters.loaded.values())

    def load_adapter(self, name: str, path: str | Path, *, in_place: bool = False) -> Adapter:
        """Load a LoRA adapter that PEFT saved, `in_place` of the one that has its name; running answers go on as ever.

        The first one has the model loaded in torch, which takes seconds and the memory of a second copy.

        Raises:
            UserError: the name is taken, or the adapter does not fit the model.
        """
        self._load_in_torch_for(Path(path))
        if not in_place:
            return self._scheduler.call(lambda: self._adapters.load(name, Path(path)))
        adapter, superseded = self._scheduler.call(lambda: self._adapters.replace(name, Path(path)))
        if superseded is not None:
            self._scheduler.evict_when_idle(superseded.lora_id)
        return adapter

    def _load_in_torch_for(self, adapter: Path) -> None:
        """In the asker's thread, before the first adapter: running answers need not wait for it."""
        if self._adapters.loaded:
            return
        check_adapter_files(adapter)
        if self.checkpoint is not None:
            check_adapter_size(adapter, self.checkpoint)
        from fourfold.serving.engine.torch_backend.lora_files import read_adapter

        read_adapter(adapter)  # one that is none costs nothing
        _ = self.model_runner.in_torch

    def unload_adapter(self, name: str) -> None:
        """Accept no new request for an adapter; its memory is freed when the last answer that uses it is ready.

        Raises:
            UserError: no adapter has that name.
        """
        unregistered = self._scheduler.call(lambda: self._adapters.unregister(name))
        if self.default_adapter == name:
            self.default_adapter = ""
        for adapter in unregistered:
            self._scheduler.evict_when_idle(adapter.lora_id)

    @property
    def stats(self) -> Stats:
        return self._scheduler.stats

    def close(self) -> None:
        """End the engine's thread; answers that are not ready fail with EngineClosed."""
        self._scheduler.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lora_id(self, request: Request) -> int:
        return self._adapters.lora_id(self.default_adapter if request.adapter is None else request.adapter)

    def _new_sequence(
        self, request: Request, on_delta: Callable[[Delta | Exception], object] | None = None
    ) -> Sequence:
        arrived = time.perf_counter()
        lora_id = self._lora_id(request)
        prompt = self._prompt_builder.prompt(request.messages, request.rendering)
        for image in prompt.images:
            # Resized here, in the asker's thread: the engine's own is for the model.
            if image.digest not in self.model_runner.feature_cache:
                _ = image.pixel_values
        room = self.context_length - len(prompt.ids)
        wanted = request.sampling
        self.check_tokens(sorted(wanted.token_ids()))
        sampling = replace(wanted, max_tokens=min(wanted.max_tokens, room), min_tokens=min(wanted.min_tokens, room))
        forced: list[int] = []
        if request.forced_answer is not None:
            forced = self._prompt_builder.answer_tokens(request.messages, request.forced_answer, request.rendering)
        form = form_of(request)
        grammar = None if form is None else self._grammars.compile(form)
        end_ids = frozenset() if wanted.ignore_eos else self.end_ids
        return Sequence(
            prompt,
            sampling,
            lora_id=lora_id,
            sampler=Sampler(
                sampling,
                prompt.ids,
                self._vocab_size,
                end_ids=end_ids | set(sampling.stop_token_ids),
                banned=bad_word_tokens(self._tokenizer, sampling.bad_words),
                grammar=grammar,
            ),
            tokenizer=self._tokenizer,
            end_ids=end_ids,
            arrived=arrived,
            forced_tokens=forced,
            continues=request.continue_final_message,
            on_delta=on_delta,
        )
