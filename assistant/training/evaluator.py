"""Cheap looks at a model in training: losses on held-out answers, yes/no by probability, boxes by greedy decoding.

They steer and compare runs. What is reported of a finished model is measured by `eval/`, on the answers it writes.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

import torch
from transformers import DynamicCache

from fourfold.assistant.grounding import parse
from fourfold.assistant.training.data.heldout import held_out
from fourfold.assistant.training.data.sample import Sample
from fourfold.assistant.training.features import FeatureStore
from fourfold.assistant.training.packing import Batch, Packer, collate
from fourfold.assistant.training.trainable_model import TrainableModel
from fourfold.prompts.tasks import Task


class Evaluator:
    """Fixed held-out items, tokenised once.

    Args:
        packer: to tokenise with.
        store: features of the images.
        items: of each task and source.
        sources: "photos", "scenes" or both.
        batch_size: items in one pass.
    """

    def __init__(
        self, packer: Packer, store: FeatureStore, items: int, sources: Sequence[str], batch_size: int = 16
    ) -> None:
        self._packer = packer
        self._store = store
        self._batch_size = batch_size
        self._items = {
            (source, task): held_out(task, source, seed=0, limit=2 * items if task is Task.VQA else items)
            for source in sources
            for task in Task
        }

    def measure(self, learner: TrainableModel, boxes: bool = True) -> dict[str, float]:
        """Figures by name, such as `photos/existence` and `photos/existence_wrong_image` (accuracies, 0..1).

        Args:
            learner: is put into evaluation mode and back.
            boxes: also decode refer answers, which takes longest.
        """
        was_training = learner.training
        learner.eval()
        figures: dict[str, float] = {}
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_available()):
            for (source, task), items in self._items.items():
                if task is Task.VQA:
                    kinds = defaultdict(list)
                    for item in items:
                        kinds[item.turns[0].facts["kind"]].append(item)
                    for kind, some in kinds.items():
                        figures[f"{source}/{kind}_loss"] = self._loss(learner, some)
                    asked = [item for item in items if item.turns[0].facts["kind"] == "existence"]
                    if asked:
                        figures[f"{source}/existence"] = self._yes_no(learner, asked, asked)
                        figures[f"{source}/existence_wrong_image"] = self._yes_no(learner, asked, _elsewhere(asked))
                elif items:
                    figures[f"{source}/{task.value}_loss"] = self._loss(learner, items)
                    if task is Task.CAPTION:
                        figures[f"{source}/caption_loss_wrong_image"] = self._loss(learner, items, _elsewhere(items))
                    if task is Task.REFER and boxes:
                        figures[f"{source}/refer"] = self._refer(learner, items)
        learner.train(was_training)
        return figures

    def _collated(self, items: Sequence[Sample]) -> Batch:
        return collate([self._packer.pack(item) for item in items], self._packer.padding_id)

    def _parts(self, items: Sequence[Sample], images: Sequence[Sample]):
        for start in range(0, len(items), self._batch_size):
            part = slice(start, start + self._batch_size)
            yield items[part], [item.image for item in images[part]]

    def _loss(self, learner: TrainableModel, items: Sequence[Sample], images: Sequence[Sample] | None = None) -> float:
        """Mean cross-entropy of an answer token, in nats."""
        total, count = 0.0, 0
        for part, seen in self._parts(items, images or items):
            batch = collate([self._packer.pack(item) for item in part], self._packer.padding_id).to(
                learner.model.device
            )
            tokens = learner(batch, self._store.get(seen).to(learner.model.device)).tokens
            total, count = total + float(tokens.sum()), count + len(tokens)
        return total / count

    def _yes_no(self, learner: TrainableModel, items: Sequence[Sample], images: Sequence[Sample]) -> float:
        """Accuracy of the likelier one of "yes" and "no"."""
        yes, no = (self._packer.answer(word)[0] for word in ("yes", "no"))
        right = []
        for part, seen in self._parts(items, images):
            batch = collate([self._packer.pack(item) for item in part], self._packer.padding_id).to(
                learner.model.device
            )
            hidden = learner.hidden(batch, self._store.get(seen).to(learner.model.device))
            # The first answer token of each row is predicted at the row's first target.
            first = [int((batch.rows == row).nonzero()[0]) for row in range(len(part))]
            logits = learner.model.lm_head(hidden[batch.rows[first], batch.columns[first]])
            says_yes = (logits[:, yes] > logits[:, no]).tolist()
            right += [said == (item.turns[0].answer == "yes") for said, item in zip(says_yes, part, strict=True)]
        return fmean(right)

    def _refer(self, learner: TrainableModel, items: Sequence[Sample]) -> float:
        """Part of the greedy answers whose first box has an IoU above 0.5 with the right one."""
        right = []
        for part, seen in self._parts(items, items):
            for item, answer in zip(part, self.answers(learner, part, seen), strict=True):
                found = [box for phrase in parse(answer).phrases for box in phrase.boxes]
                right.append(bool(found) and found[0].iou(item.turns[0].boxes[0]) > 0.5)
        return fmean(right)

    def answers(self, learner: TrainableModel, items: Sequence[Sample], images, max_new_tokens: int = 24) -> list[str]:
        """Greedy answers to the items' questions about `images`."""
        model, tokenizer = learner.model, self._packer.tokenizer
        prompts = [self._packer.prompt(item.turns[0].question) for item in items]
        length = max(map(len, prompts))
        ids = torch.full((len(prompts), length), self._packer.padding_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):  # padded on the left: answers begin at the right edge
            ids[row, length - len(prompt) :] = torch.tensor(prompt)
            mask[row, length - len(prompt) :] = 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        inner = model.model
        visual = inner.project_features(self._store.get(images).to(model.device, inner.projector.weight.dtype))
        embeds, cache = inner.embed(ids, visual), DynamicCache(config=model.config.text_config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        chosen: list[torch.Tensor] = []
        done = torch.zeros(len(items), dtype=torch.bool, device=model.device)
        while len(chosen) < max_new_tokens and not done.all():
            hidden = inner.language_model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1:]
            chosen.append(model.lm_head(hidden).argmax(-1))
            done |= chosen[-1][:, 0] == tokenizer.eos_token_id
            embeds, positions = inner.embed(chosen[-1], None), positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(items), 1)], 1)
        texts = tokenizer.batch_decode(torch.cat(chosen, 1))
        return [text.partition(tokenizer.eos_token)[0] for text in texts]


def _elsewhere(items: Sequence[Sample]) -> list[Sample]:
    """For each item another one, of another image: half the list away, or further."""
    found = []
    for place, item in enumerate(items):
        for step in range(len(items)):
            other = items[(place + len(items) // 2 + step) % len(items)]
            if other.image.id != item.image.id:
                found.append(other)
                break
        else:
            found.append(item)
    return found
