"""Cheap measures of a model in training: losses on held-out answers, yes/no by probability, boxes by greedy decoding.

They steer and compare runs. What is reported of a finished model is measured by `eval/`, on the answers it writes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean

import torch

from fourfold.assistant.grounding import parse
from fourfold.assistant.training.data.heldout import held_out
from fourfold.assistant.training.data.sample import ImageRef, Sample
from fourfold.assistant.training.features import FeatureStore
from fourfold.assistant.training.packing import Batch, Packer, collate
from fourfold.assistant.training.trainable_model import TrainableModel
from fourfold.prompts.tasks import Task

_BATCH, _CUDA_BATCH = 16, 128  # items in one pass


class Evaluator:
    """Fixed held-out items: so many of each task and source ("photos", "scenes" or both)."""

    def __init__(self, packer: Packer, store: FeatureStore, items: int, sources: Sequence[str]) -> None:
        self._packer = packer
        self._store = store
        self._items = {
            (source, task): held_out(task, source, seed=0, limit=2 * items if task is Task.VQA else items)
            for source in sources
            for task in Task
        }

    def images(self) -> Iterator[ImageRef]:
        """All that it asks about; several items may show one."""
        for items in self._items.values():
            for item in items:
                yield from item.images

    def evaluate(self, trainable: TrainableModel, boxes: bool = True) -> dict[str, float]:
        """Figures by name, such as `photos/existence` and `photos/existence_wrong_image` (accuracies, 0..1).

        With `boxes` refer answers are decoded too, which takes longest.
        """
        was_training = trainable.training
        trainable.eval()
        figures: dict[str, float] = {}
        with torch.inference_mode(), trainable.autocast(), torch.compiler.set_stance("force_eager"):
            for (source, task), items in self._items.items():
                if task is Task.VQA:
                    kinds = defaultdict(list)
                    for item in items:
                        kinds[item.turns[0].facts["kind"]].append(item)
                    for kind, some in kinds.items():
                        figures[f"{source}/{kind}_loss"] = self._loss(trainable, some)
                    asked = [item for item in items if item.turns[0].facts["kind"] == "existence"]
                    if asked:
                        figures[f"{source}/existence"] = self._yes_no(trainable, asked, asked)
                        figures[f"{source}/existence_wrong_image"] = self._yes_no(trainable, asked, _elsewhere(asked))
                elif items:
                    figures[f"{source}/{task.value}_loss"] = self._loss(trainable, items)
                    if task is Task.CAPTION:
                        figures[f"{source}/caption_loss_wrong_image"] = self._loss(trainable, items, _elsewhere(items))
                    if task is Task.REFER and boxes:
                        figures[f"{source}/refer"] = self._refer(trainable, items)
        trainable.train(was_training)
        return figures

    def _batches(
        self, trainable: TrainableModel, items: Sequence[Sample], images: Sequence[Sample]
    ) -> Iterator[tuple[Sequence[Sample], Batch, torch.Tensor]]:
        """Items in parts, their tokens, and the features of the images that they are asked about."""
        device = trainable.model.device
        size = _CUDA_BATCH if device.type == "cuda" else _BATCH
        for start in range(0, len(items), size):
            part = items[start : start + size]
            batch = collate([self._packer.pack(item) for item in part], self._packer.padding_id)
            shown = [item.image for item in images[start : start + size]]
            yield part, batch.to(device), self._store.get(shown).to(device)

    def _loss(
        self, trainable: TrainableModel, items: Sequence[Sample], images: Sequence[Sample] | None = None
    ) -> float:
        """Mean cross-entropy of an answer token, in nats."""
        losses = [
            trainable(batch, features).tokens for _, batch, features in self._batches(trainable, items, images or items)
        ]
        return float(torch.cat(losses).mean())

    def _yes_no(self, trainable: TrainableModel, items: Sequence[Sample], images: Sequence[Sample]) -> float:
        """Accuracy of the likelier one of "yes" and "no"."""
        yes, no = (self._packer.answer(word)[0] for word in ("yes", "no"))
        right = []
        for part, batch, features in self._batches(trainable, items, images):
            hidden = trainable.hidden(batch, features)
            # The first answer token of each row is predicted at the row's first target.
            first = [int((batch.rows == row).nonzero()[0]) for row in range(len(part))]
            with torch.autocast(trainable.model.device.type, enabled=False):  # rounded, the two would often be equal
                logits = trainable.model.lm_head(hidden[batch.rows[first], batch.columns[first]].float())
            says_yes = (logits[:, yes] > logits[:, no]).tolist()
            right += [said == (item.turns[0].answer == "yes") for said, item in zip(says_yes, part, strict=True)]
        return fmean(right)

    def _refer(self, trainable: TrainableModel, items: Sequence[Sample]) -> float:
        """Part of the greedy answers whose first box has an IoU above 0.5 with the right one."""
        right = []
        for part, _, features in self._batches(trainable, items, items):
            for item, answer in zip(part, self._answers(trainable, part, features), strict=True):
                found = parse(answer).boxes
                right.append(bool(found) and found[0].iou(item.turns[0].boxes[0]) > 0.5)
        return fmean(right)

    def _answers(self, trainable: TrainableModel, items: Sequence[Sample], features: torch.Tensor) -> list[str]:
        """Greedy answers to the items' questions."""
        model, tokenizer = trainable.model, self._packer.tokenizer
        prompts = {"input_ids": [self._packer.prompt(item.turns[0].question) for item in items]}
        tokens = tokenizer.pad(prompts, padding_side="left", return_tensors="pt").to(model.device)
        written = model.generate(
            inputs_embeds=trainable.embed(tokens["input_ids"], features),
            attention_mask=tokens["attention_mask"],
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=self._packer.padding_id,
        )
        return [text.partition(tokenizer.eos_token)[0] for text in tokenizer.batch_decode(written)]


def _elsewhere(items: Sequence[Sample]) -> list[Sample]:
    """For each item another one, of another image: half the list away, or further."""
    found = []
    for place, item in enumerate(items):
        others = (items[(place + len(items) // 2 + step) % len(items)] for step in range(len(items)))
        found.append(next((other for other in others if other.image.id != item.image.id), item))
    return found
