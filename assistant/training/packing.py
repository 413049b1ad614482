"""Samples as token sequences: several turns share the tokens of their images, and only answers are learnt."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fourfold.assistant.model import MiniGPTv2Processor
from fourfold.assistant.training.data.sample import MOST_IMAGES, Sample, Turn

PREFIX = 0  # group of what every turn of a sample sees
_PADDING = -1
_BOX = re.compile(r"\{(?:<\d{1,3}>){4}\}")
_TENS = re.compile(r"\d(?=\d+>)")  # of 100 both in front of the ones


@dataclass(frozen=True)
class Packed:
    """One sample's tokens."""

    ids: list[int]  # token ids, the images' placeholders among them
    positions: list[int]  # place of each token as its turn sees it: turns that stand alone all begin behind the images
    groups: list[int]  # 0 for the shared beginning, from 1 on the turn's number; a token sees its own group and group 0
    weights: list[float]  # what the prediction of this token counts, 0 for everything but answers
    kd_weights: list[float]  # of each token, how much of its target is what the model thought before training
    images: int  # how many images the placeholders stand for
    # of tokens of rejected answers, which count nothing but whose likelihood is wanted
    rejected_positions: list[int] = field(default_factory=list)
    # a preference each: group of the answer, group of the rejected answer, the turn's margin
    pairs: list[tuple[int, int, float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Batch:
    """Packed samples side by side, padded on the right."""

    # ids, positions: (batch, length)
    ids: torch.Tensor
    positions: torch.Tensor
    groups: torch.Tensor  # (batch, length), as in `Packed`; -1 behind a sample's end
    images: torch.Tensor  # (batch,), how many images each sample brings; theirs come in the order of the samples
    # rows, columns: (targets,), where a prediction is made
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor  # (targets,), the token that comes next there
    weights: torch.Tensor  # (targets,), 0 for tokens of rejected answers
    kd_weights: torch.Tensor  # (targets,), 0..1, how much of the target is what the model thought before training
    distilled: torch.Tensor  # (distilled,), places among the targets of those with a kd_weight
    turns: torch.Tensor  # (targets,), a number for each turn of the batch, to tell losses apart
    pairs: torch.Tensor  # (pairs, 2), for each preference the numbers of its two turns, the better one first
    margins: torch.Tensor  # (pairs,), by how much the better one was likelier before training, in nats

    @property
    def mask(self) -> torch.Tensor:
        """(batch, 1, length, length), true where attention is allowed; made where it is used, being large."""
        groups, length = self.groups, self.groups.shape[1]
        same = groups.unsqueeze(2) == groups.unsqueeze(1)
        shared = (groups == PREFIX).unsqueeze(1)
        causal = torch.ones(length, length, dtype=torch.bool, device=groups.device).tril()
        return ((same | shared) & causal).unsqueeze(1)

    def to(self, device: torch.device) -> "Batch":
        def moved(tensor: torch.Tensor) -> torch.Tensor:
            if device.type == "cuda" and tensor.is_cpu and tensor.numel():
                tensor = tensor.pin_memory()  # or the copy would wait for what the device does
            return tensor.to(device, non_blocking=True)

        return Batch(**{name: moved(tensor) for name, tensor in vars(self).items()})

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrays go from process to process through a pipe; tensors would each take an open file under /dev/shm.
        return _batch_of, ({name: tensor.numpy() for name, tensor in vars(self).items()},)


def _batch_of(arrays: dict[str, np.ndarray]) -> Batch:
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


class Packer:
    """Packs samples in the words of a processor's chat template.

    The template is rendered once with marks in the places of questions and answers; the text between them, tokenised
    apart from question and answer as generation meets them, is the same for every sample.

    Args:
        processor: its tokenizer and chat template.
        box_tens: what the tens digits of a box's sides count against all other tokens of its answer. They say ten
            times as much of where the box is as the ones digits do.
    """

    def __init__(self, processor: MiniGPTv2Processor, box_tens: float = 1.0) -> None:
        self.tokenizer: Any = processor.tokenizer
        self._box_tens = box_tens
        # For each number of images the tokens up to the last of them, and the text from there to the question.
        self._starts: list[tuple[list[int], str]] = []
        marks = ["QUESTION-0", "ANSWER-0", "QUESTION-1", "ANSWER-1"]
        for count in range(MOST_IMAGES + 1):
            messages: list[dict[str, Any]] = [
                {"role": "user", "content": [{"type": "image"}] * count + [{"type": "text", "text": marks[0]}]},
                {"role": "assistant", "content": marks[1]},
                {"role": "user", "content": marks[2]},
                {"role": "assistant", "content": marks[3]},
            ]
            text = self.tokenizer.apply_chat_template(messages, chat_template=processor.chat_template, tokenize=False)
            start, _, rest = text.partition(marks[0])
            head, image, lead = start.rpartition(processor.image_token)
            prefix: list[int] = []
            for token in self._ids([head + image])[0]:
                prefix += [token] * (processor.num_image_tokens if token == processor.image_token_id else 1)
            self._starts.append((prefix, lead))
            self._gap, _, rest = rest.partition(marks[1])
            self._again, _, rest = rest.partition(marks[2])
        self._end = self.tokenizer.eos_token
        if not self._again.startswith(self._end) or not rest.startswith(self._gap):
            raise ValueError("the chat template does not end answers with the tokenizer's end of sequence")
        self._again = self._again.removeprefix(self._end)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def pack(self, sample: Sample) -> Packed:
        """Tokens of a sample; weights of an answer's tokens are 1 / sqrt(their number) on average, its end included.

        So a long answer counts more than a short one, but not in proportion: otherwise captions would drown yes and no.
        A rejected answer is a turn of its own, behind the same question, that counts nothing.

        Raises:
            ValueError: a turn of a conversation has a rejected answer: what comes later would see both.
        """
        prefix, lead = self._starts[len(sample.images)]
        prefix = prefix + self._history(sample, lead)
        size = len(prefix)
        packed = Packed(
            prefix, list(range(size)), [PREFIX] * size, [0.0] * size, [0.0] * size, images=len(sample.images)
        )
        place = size
        for number, turn in enumerate(sample.turns):
            group, place = (1, place) if sample.multi_turn else (number + 1, size)
            before = self._again if sample.history or (sample.multi_turn and number > 0) else lead
            place = self._add(packed, turn, turn.answer, group, place, before, turn.kd_weight)
        for number, turn in enumerate(sample.turns):
            if turn.rejected is None:
                continue
            if sample.multi_turn:
                raise ValueError("a turn of a conversation has a rejected answer; give what came before as history")
            group, begin = len(sample.turns) + len(packed.pairs) + 1, len(packed)
            self._add(packed, turn, turn.rejected, group, size, self._again if sample.history else lead)
            packed.rejected_positions.extend(place for place in range(begin, len(packed)) if packed.weights[place])
            packed.weights[begin:] = [0.0] * (len(packed) - begin)
            packed.pairs.append((number + 1, group, turn.margin))
        return packed

    def _add(
        self, packed: Packed, turn: Turn, answer: str, group: int, place: int, before: str, kd_weight: float = 0.0
    ) -> int:
        """Append a turn with its history, whose first token stands at position `place`; the position behind it.

        `before` is the text in front of its question, or of its history's first.
        """
        asked: list[int] = []
        for question, said in turn.history:
            asked += self._exchange(before, question, said)
            before = self._again
        tokens = self.tokenizer([before + turn.question + self._gap, answer + self._end], add_special_tokens=False)
        ask, answered = tokens["input_ids"]
        asked += ask
        length = len(asked) + len(answered)
        weights = [len(answered) ** -0.5] * len(answered)
        if self._box_tens != 1.0 and (tens := self._tens(tokens, answer)):
            share = len(answered) / (len(answered) + (self._box_tens - 1) * len(tens))  # the sum stays what it was
            weights = [weight * share for weight in weights]
            for ten in tens:
                weights[ten] *= self._box_tens
        packed.ids.extend(asked + answered)
        packed.positions.extend(range(place, place + length))
        packed.groups.extend([group] * length)
        packed.weights.extend([0.0] * len(asked) + weights)
        packed.kd_weights.extend([kd_weight] * length)
        return place + length

    def _tens(self, tokens: Any, answer: str) -> list[int]:
        """Which tokens of `answer`, the second of the tokenised texts, are digits of a box before the ones."""
        digits = [match.start() for box in _BOX.finditer(answer) for match in _TENS.finditer(answer, *box.span())]
        found = [(tokens.char_to_token(1, place), tokens.char_to_token(1, place + 1)) for place in digits]
        return [ten for ten, one in found if ten != one]  # a tokenizer that keeps numbers whole has no tens

    def _exchange(self, before: str, question: str, answer: str) -> list[int]:
        """Tokens of a question and its answer, from which nothing is learnt."""
        return [token for part in self._ids([before + question + self._gap, answer + self._end]) for token in part]

    def _history(self, sample: Sample, lead: str) -> list[int]:
        """Tokens of the turns that came before, to stand behind the images."""
        exchanges = enumerate(sample.history)
        return [
            token
            for number, (said, heard) in exchanges
            for token in self._exchange(self._again if number else lead, said, heard)
        ]

    def prompt(self, question: str) -> list[int]:
        """Tokens of a first question with an image, up to where the answer begins."""
        prefix, lead = self._starts[1]
        return prefix + self._ids([lead + question + self._gap])[0]

    def answer(self, text: str) -> list[int]:
        """Tokens of an answer with its end."""
        return self._ids([text + self._end])[0]

    @property
    def padding_id(self) -> int:
        """Token to fill with: never the placeholder, which would ask for visual tokens."""
        return self.tokenizer.pad_token_id


def collate(samples: Sequence[Packed], padding_id: int, multiple: int = 8) -> Batch:
    """Samples padded to the longest, rounded up to `multiple` (kernels on GPUs like that)."""
    length = -(-max(map(len, samples)) // multiple) * multiple

    def table(lists: Sequence[Sequence[float]], fill: float, dtype: type[np.generic]) -> torch.Tensor:
        out = np.full((len(lists), length), fill, dtype)
        for row, values in zip(out, lists, strict=True):
            row[: len(values)] = values
        return torch.from_numpy(out)

    ids = table([s.ids for s in samples], padding_id, np.int64)
    positions = table([s.positions for s in samples], 0, np.int64)
    groups = table([s.groups for s in samples], _PADDING, np.int64)
    weights = table([s.weights for s in samples], 0.0, np.float32)
    kd_weights = table([s.kd_weights for s in samples], 0.0, np.float32)
    wanted = weights != 0
    for row, sample in enumerate(samples):
        wanted[row, sample.rejected_positions] = True
    rows, places = wanted.nonzero(as_tuple=True)
    pairs = [
        (row * 1000 + better, row * 1000 + worse, margin)
        for row, sample in enumerate(samples)
        for better, worse, margin in sample.pairs
    ]
    return Batch(
        ids=ids,
        positions=positions,
        groups=groups,
        images=torch.tensor([sample.images for sample in samples]),
        rows=rows,
        columns=places - 1,
        targets=ids[rows, places],
        weights=weights[rows, places],
        kd_weights=kd_weights[rows, places],
        distilled=kd_weights[rows, places].nonzero().squeeze(1),
        turns=rows * 1000 + groups[rows, places],
        pairs=torch.tensor([pair[:2] for pair in pairs], dtype=torch.long).reshape(-1, 2),
        margins=torch.tensor([margin for *_, margin in pairs], dtype=torch.float32),
    )
