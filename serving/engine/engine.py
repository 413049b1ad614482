"""The local engine: a checkpoint in, answers out, in one process.

Requests go through one scheduler whoever sends them: a script with a list, a chat that streams, or the HTTP server.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.model.bf16 import cast_linears_to_bf16
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.dtype import DtypeName, choose_format, free_cores
from fourfold.serving.engine.loading import end_tokens, load_config, load_model, load_processor
from fourfold.serving.engine.lora_manager import Adapter, LoRAManager
from fourfold.serving.engine.model_runner import ModelRunner
from fourfold.serving.engine.onnx_graph import WeightFormat
from fourfold.serving.engine.prompt import PromptBuilder
from fourfold.serving.engine.quantization import Quantization
from fourfold.serving.engine.requests import Completion, Delta, EngineClosed, QueueFull, Request, Sampling, TokenLogprob
from fourfold.serving.engine.sampling import Sampler
from fourfold.serving.engine.scheduler import Scheduler, Stats
from fourfold.serving.engine.scoring import mean_log_likelihoods
from fourfold.serving.engine.sequence import Generation

__all__ = [
    "Completion",
    "Delta",
    "Engine",
    "EngineClosed",
    "Generation",
    "QueueFull",
    "Request",
    "Sampling",
    "Stats",
    "TokenLogprob",
]


class Engine:
    """A loaded model that answers. Every method may be called from any thread.

    Use `load`; and `close`, or a `with` block, to free the thread.

    Args:
        model: on its device, in its dtype; it becomes the engine's own.
        processor: of the model.
        name: under which it is known.
        max_rows: answers made at the same time.
        max_waiting: requests that may wait in `submit`.
        decoder: format of the language model's weights where onnxruntime computes it, see `choose_format`; None for
            torch.
    """

    def __init__(
        self,
        model: MiniGPTv2ForConditionalGeneration,
        processor: MiniGPTv2Processor,
        name: str,
        *,
        max_rows: int = 16,
        max_waiting: int = 64,
        decoder: WeightFormat | None = None,
    ) -> None:
        text = model.config.text_config
        window = getattr(text, "sliding_window", None)
        self.model_name = name
        self.context_length: int = min(text.max_position_embeddings, window or text.max_position_embeddings)
        self.image_size: int = model.config.vision_config.image_size
        self.end_ids = end_tokens(model, processor)
        self.device, self.dtype = model.device, model.model.projector.weight.dtype
        self.weight_bytes: int = model.get_memory_footprint()
        self.default_adapter = ""
        self._tokenizer = processor.tokenizer
        self._vocab_size: int = text.vocab_size
        self._prompt_builder = PromptBuilder(processor, self.context_length, self.end_ids)
        self._adapters = LoRAManager(model)
        memory = _free_memory(self.device)
        cuda = self.device.type == "cuda"
        self._runner = ModelRunner(
            model,
            self.context_length,
            cache_bytes=memory // 2,
            feature_bytes=min(256 * 2**20, memory // 16),
            decoder=decoder,
        )
        self._max_rows = max_rows
        self._scheduler = Scheduler(
            self._runner,
            self._adapters,
            prefix_bytes=memory // 8 if cuda else min(512 * 2**20, memory // 8),
            max_rows=max_rows,
            max_waiting=max_waiting,
            step_tokens=4096 if cuda else 512,
            threads=torch.get_num_threads(),
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
        max_rows: int = 16,
        max_waiting: int = 64,
    ) -> "Engine":
        """Load a checkpoint.

        Args:
            directory: an ordinary transformers checkpoint with its processor.
            quantization: "4bit" or "8bit" for the language model by bitsandbytes, None for none.
            dtype: see `choose_format`; "int8" is for the language model.
            device: "auto" for CUDA where there is one.
            adapter: directory of a LoRA adapter, then the default one, called by its directory's name.
            name: of the model; by default the directory's.
            max_rows: answers made at the same time.
            max_waiting: requests that may wait in `submit`.

        Raises:
            UserError: the checkpoint, the adapter or an option is unusable; one line says why.
        """
        directory = Path(directory)
        config = load_config(directory)
        where = _device(device)
        if where.type == "cpu":
            torch.set_num_threads(free_cores())
        processor = load_processor(directory, config)
        numbers = choose_format(dtype, config, where, quantization)
        model = load_model(directory, numbers.dtype, where, quantization)
        if numbers.bf16_tower:
            cast_linears_to_bf16(model.model.vision_tower)
        engine = cls(
            model,
            processor,
            name or directory.resolve().name,
            max_rows=max_rows,
            max_waiting=max_waiting,
            decoder=numbers.decoder,
        )
        if adapter is not None:
            try:
                engine.default_adapter = engine.load_adapter(Path(adapter).resolve().name, adapter).name
            except UserError:
                engine.close()
                raise
        return engine

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all requests, as many at the same time as there is room for; results in their order.

        Raises:
            UserError: a request is malformed or too long for the context.
        """
        pending: deque[Generation] = deque()
        done: list[Completion] = []
        try:
            for request in requests:
                # A little ahead of the model is enough: thousands of resized images would fill the memory.
                if len(pending) >= 2 * self._max_rows:
                    done.append(pending[0].result())
                    pending.popleft()
                pending.append(self._generation(request))
                self._scheduler.submit(pending[-1], bounded=False)
            while pending:
                done.append(pending[0].result())
                pending.popleft()
        finally:  # an error or an interrupt must not leave the rest running
            for generation in pending:
                generation.cancel()
        return done

    def stream(self, request: Request, cancel: threading.Event | None = None) -> Generator[Delta, None, None]:
        """The answer piece by piece; the last piece carries the completion.

        Args:
            request: the question.
            cancel: when set, the answer ends with the reason "cancelled" at the next piece. Closing the iterator
                ends it as well.

        Raises:
            UserError: as `generate`.
        """
        generation = self._generation(request)
        self._scheduler.submit(generation, bounded=False)
        try:
            for delta in generation:
                if cancel is not None and cancel.is_set():
                    generation.cancel()
                yield delta
        finally:
            generation.cancel()

    def submit(self, request: Request, on_delta: Callable[[Delta | Exception], object] | None = None) -> Generation:
        """Queue a request and return at once, after preparing its prompt and images.

        Args:
            request: the question.
            on_delta: gets every piece on the engine's thread, or the exception that ended the answer, in place of the
                returned object's iterator.

        Raises:
            UserError: as `generate`.
            QueueFull: too many requests wait.
            EngineClosed: the engine was closed.
        """
        generation = self._generation(request, on_delta)
        self._scheduler.submit(generation)
        return generation

    def score(self, request: Request, candidates: Sequence[str]) -> list[float]:
        """Mean log-likelihood of each candidate as the answer, over its own tokens (the end of turn not counted).

        Raises:
            UserError: the request is malformed or too long, or a candidate is empty.
        """
        if not candidates:
            return []
        prepared = self._prompt_builder.candidates(request.messages, candidates, request.template)
        serial = self._serial(request)

        def run() -> list[float]:
            self._adapters.use(serial)
            return mean_log_likelihoods(self._runner, self._scheduler.prefixes, serial, prepared, self._max_rows)

        return self._scheduler.call(run)

    @property
    def adapters(self) -> list[Adapter]:
        """The loaded adapters."""
        return list(self._adapters.loaded.values())

    def load_adapter(self, name: str, path: str | Path, *, in_place: bool = False) -> Adapter:
        """Load a LoRA adapter that PEFT saved; running answers go on as they were.

        Args:
            name: what requests call it.
            path: its directory.
            in_place: let it replace the adapter that has the name.

        Raises:
            UserError: the name is taken, or the adapter does not fit the model.
        """
        if not in_place:
            return self._scheduler.call(lambda: self._adapters.load(name, Path(path)))
        adapter, outlived = self._scheduler.call(lambda: self._adapters.replace(name, Path(path)))
        if outlived is not None:
            self._scheduler.retire(outlived.serial)
        return adapter

    def unload_adapter(self, name: str) -> None:
        """Accept no new request for an adapter; its memory is freed when the last answer that uses it is ready.

        Raises:
            UserError: no adapter has that name.
        """
        withdrawn = self._scheduler.call(lambda: self._adapters.withdraw(name))
        if self.default_adapter == name:
            self.default_adapter = ""
        for adapter in withdrawn:
            self._scheduler.retire(adapter.serial)

    @property
    def stats(self) -> Stats:
        """Counters for metrics."""
        return self._scheduler.stats

    def close(self) -> None:
        """End the engine's thread; answers that are not ready fail with EngineClosed."""
        self._scheduler.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _serial(self, request: Request) -> int:
        return self._adapters.serial(self.default_adapter if request.adapter is None else request.adapter)

    def _generation(
        self, request: Request, on_delta: Callable[[Delta | Exception], object] | None = None
    ) -> Generation:
        arrived = time.perf_counter()
        serial = self._serial(request)
        prompt = self._prompt_builder.prompt(request.messages, request.template)
        for image in prompt.images:
            # Resized here, in the asker's thread: the engine's own is for the model.
            if image.digest not in self._runner.features:
                image.pixel_values()
        room = self.context_length - len(prompt.ids)
        sampling = replace(request.sampling, max_tokens=min(request.sampling.max_tokens, room))
        known = (
            []
            if request.answer is None
            else self._prompt_builder.answer(request.messages, request.answer, request.template)
        )
        return Generation(
            prompt,
            sampling,
            adapter=serial,
            sampler=Sampler(sampling, prompt.ids, self._vocab_size, self.device),
            tokenizer=self._tokenizer,
            end_ids=self.end_ids,
            arrived=arrived,
            known=known,
            on_delta=on_delta,
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device is called {name!r}; there are: auto, cpu, cuda, cuda:0 …") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here; use --device cpu or leave it out")
    return device


def _free_memory(device: torch.device) -> int:
    """Bytes that the device has free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 * 2**30
