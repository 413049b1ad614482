"""Teaching corrections to any image-text-to-text model of transformers that PEFT can adapt.

The trainer of `learn` knows the inside of one architecture: it keeps the frozen tower's features and packs several
questions behind one image. This one knows nothing but the processor's chat template and the model's loss, and so takes
every checkpoint that `AutoModelForImageTextToText` loads; it is slower by that much.
"""

import json
import platform
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.files import building, write_text
from fourfold.assistant.progress import OnProgress, Progress, progress_bar
from fourfold.assistant.refine.adapter import CONFIG
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.training.learn import what_to_learn
from fourfold.assistant.refine.training.recipe import Refinement, read_refinement, replay_of
from fourfold.assistant.refine.training.samples import data_hash, samples_of
from fourfold.assistant.training.data.mixture import Mixture
from fourfold.assistant.training.data.sample import Sample, Turn
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    import torch

_SEEING = re.compile(r"vision|visual|image|projector|merger|patch|lm_head", re.IGNORECASE)
_ONE = "number"


def train_any(
    store_directory: Path,
    model_directory: Path,
    out: Path,
    *,
    max_steps: int | None = None,
    seed: int = 0,
    recipe: Path | Refinement | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Learn the consented corrections of a store on top of any model; as `learn.train`, but an interrupted run begins
    anew, captions are not rehearsed, and preferences are not learnt (TRL's trainers do that: `refine export`).

    Every step has the recipe's batch: corrected questions by cross-entropy of their answers, and replayed questions by
    the distance (KL) from what the model thought of them before, which the adapter switched off still says.

    Raises:
        UserError: there is nothing to learn, `out` exists, or the model has no chat template, no layers to adapt, or
            does not load.
    """
    refinement = recipe if isinstance(recipe, Refinement) else read_refinement(recipe)
    if refinement.preference is not None or refinement.projector_lr or not refinement.lora.rank:
        raise UserError("preference and projector_lr are learnt on MiniGPT-v2 checkpoints only; leave them out")
    if out.exists():
        raise UserError(f"{out} exists already; choose another place or remove it")
    store = CorrectionStore(store_directory)
    taught, split, samples = what_to_learn(store, refinement, seed)
    steps = refinement.steps(len(samples), max_steps)
    began = time.monotonic()
    with progress_bar(on_progress) as tell:
        tell(Progress("loading the model"))
        learner = _Learner(model_directory, refinement, seed)
        tell(Progress("looking at the images"))
        corrected = _rows(samples)
        replayed = _rows([*samples_of(taught.kept, store.image), *_replay(model_directory, refinement, seed)])
        losses = learner.run(corrected, replayed, steps, refinement.corrections_in_a_batch(len(samples)), tell)
    told = {
        "model": model_fingerprint(model_directory),
        "architecture": learner.architecture,
        "data": data_hash([target.correction for target in (*taught.corrected, *taught.kept)]),
        "refinement": asdict(refinement),
        "steps": steps,
        "seed": seed,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "corrections": {
            "learnt": [target.correction.id for target in split.learnt],
            "held_out": [target.correction.id for target in split.held_out],
            "kept": [target.correction.id for target in taught.kept],
            "doubtful": [asdict(item) for item in taught.to_review],
            "only_verdicts": taught.verdicts,
        },
        "samples": len(samples),
        "replay": {"questions": len(replayed)},
        "seconds": round(time.monotonic() - began, 1),
        "losses": [round(loss, 4) for loss in losses],
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "peft")},
    }
    with building(out) as part:
        learner.write(part)
        (part / "training.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return out


def _replay(model_directory: Path, refinement: Refinement, seed: int) -> list[Sample]:
    """What a MiniGPT-v2 would be asked again, of photos and rendered scenes."""
    if refinement.share == 1:
        return []
    mixture = Mixture(replay_of(model_directory, refinement, seed))
    drawn = [mixture.draw(entry, 0) for entry in mixture.epoch(0)[: refinement.replay_images]]
    return [sample for sample in drawn if sample.turns]


def _rows(samples: Sequence[Sample]) -> list[tuple[Sample, Turn]]:
    return [(sample, turn) for sample in samples for turn in sample.turns]


class _Learner:
    """A model with an adapter on the linear layers of its language model, and its processor."""

    def __init__(self, model_directory: Path, refinement: Refinement, seed: int) -> None:
        import peft
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        torch.manual_seed(seed)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        try:
            # Unless told so, transformers asks on the terminal whether to run a checkpoint's code.
            model = AutoModelForImageTextToText.from_pretrained(model_directory, dtype=dtype, trust_remote_code=False)
            self.processor = AutoProcessor.from_pretrained(model_directory, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"{model_directory} does not load as an image-text-to-text model: {reason}") from None
        if getattr(self.processor, "chat_template", None) is None:
            raise UserError(f"{model_directory} has no chat template; put its chat_template.jinja beside the weights")
        self.architecture = model.config.model_type
        lora = refinement.lora
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=_expression([name for name, module in model.named_modules() if _is_linear(module)], lora),
        )
        self.model = peft.get_peft_model(model, config).to(self.device)
        self.refinement = refinement
        self.seed = seed

    def run(
        self,
        corrected: Sequence[tuple[Sample, Turn]],
        replayed: Sequence[tuple[Sample, Turn]],
        steps: int,
        of_a_batch: int,
        tell: OnProgress,
    ) -> list[float]:
        """Take the steps; the loss of each."""
        import torch

        kept, size = self.refinement.distilled, self.refinement.batch_size
        wanted = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(wanted, lr=self.refinement.lora_lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / min(5, steps)))
        first, again = _endless(corrected, self.seed), _endless(replayed, self.seed + 1)
        of_a_batch = of_a_batch if replayed else size
        losses = []
        self.model.train()
        for step in range(1, steps + 1):
            batch = [(next(first), 0.0) for _ in range(of_a_batch)]
            batch += [(next(again), kept) for _ in range(size - of_a_batch)] if replayed else []
            total = 0.0
            for (sample, turn), share in batch:
                loss = self._loss(sample, turn, share) / len(batch)
                loss.backward()
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(wanted, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(total)
            tell(Progress("learning", step, steps, total))
        return losses

    def _loss(self, sample: Sample, turn: Turn, share: float) -> "torch.Tensor":
        """Cross-entropy of an answer, `share` of it exchanged for the distance from the model without the adapter."""
        import torch
        import torch.nn.functional as F

        inputs, begins = self._inputs(sample, turn)
        ids = inputs["input_ids"][0, begins:]
        logits = self.model(**inputs).logits[0, begins - 1 : -1].float()
        loss = F.cross_entropy(logits, ids) * (1 - share)
        if share:
            with torch.no_grad(), self.model.disable_adapter():
                before = self.model(**inputs).logits[0, begins - 1 : -1].float()
            after, was = logits.log_softmax(-1), before.log_softmax(-1)
            loss = loss + share * F.kl_div(after, was, reduction="batchmean", log_target=True)
        return loss

    def _inputs(self, sample: Sample, turn: Turn) -> "tuple[Any, int]":
        """A conversation as the model reads it, and where in it the answer begins.

        Raises:
            UserError: the chat template writes a prompt otherwise once its answer follows, so that nobody can tell.
        """
        images = [{"type": "image", "image": image.open()} for image in sample.images]
        said: list[dict[str, Any]] = []
        for place, (question, answer) in enumerate([*sample.history, (turn.question, turn.answer)]):
            parts = images if place == 0 else []
            said.append({"role": "user", "content": [*parts, {"type": "text", "text": question}]})
            said.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        whole = self._tokens(said, False)
        prompt = self._tokens(said[:-1], True)["input_ids"]
        begins = prompt.shape[1]
        if begins >= whole["input_ids"].shape[1] or not bool((whole["input_ids"][:, :begins] == prompt).all()):
            raise UserError(
                "the model's chat template does not continue a prompt by its answer; its corrections cannot be learnt "
                "here (fourfold refine export --format trl writes them for other trainers)"
            )
        return whole.to(self.device), begins

    def _tokens(self, messages: list[dict[str, Any]], prompt: bool) -> Any:
        return self.processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=prompt
        )

    def write(self, directory: Path) -> None:
        """PEFT's files, the same for the same training wherever the model lies."""
        self.model.save_pretrained(str(directory))
        (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        path = directory / CONFIG
        told = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
        write_text(path, json.dumps(told, indent=2, sort_keys=True) + "\n")


def _is_linear(module: Any) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear)


def _expression(linear: Sequence[str], lora: Any) -> str:
    """What PEFT and vLLM find the adapted layers by: those of the language model, in the wanted part of its depth.

    Raises:
        UserError: the model has no such layers.
    """
    found = [match for name in linear if not _SEEING.search(name) and (match := _LAYER.fullmatch(name))]
    chosen = [match for match in found if match["kind"] in lora.targets] or found
    if not chosen:
        raise UserError("the model's language model has no linear layers that an adapter could go on")
    depth = 1 + max(int(match[_ONE]) for match in chosen)
    layers = range(round(lora.first * depth), round(lora.last * depth))
    paths = sorted({match["path"] for match in chosen})
    kinds = sorted({match["kind"] for match in chosen})
    numbers = "|".join(map(str, layers))
    return rf"({'|'.join(map(re.escape, paths))})\.({numbers})\..*\.({'|'.join(kinds)})"


_LAYER = re.compile(rf"(?P<path>.*)\.(?P<{_ONE}>\d+)\.(?:.*\.)?(?P<kind>\w+)")


def _endless(rows: Sequence[tuple[Sample, Turn]], seed: int) -> Iterator[tuple[Sample, Turn]]:
    """All rows in an order that changes with every round."""
    import random

    rng = random.Random(f"rows {seed}")
    while rows:
        yield from rng.sample(list(rows), len(rows))
