"""Samples as token sequences: several turns share one image's tokens, and only answers are learnt."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fourfold.assistant.model import MiniGPTv2Processor
from fourfold.assistant.training.data.sample import Sample, Turn

PREFIX = 0  # group of what every turn of a sample sees
_PADDING = -1


@dataclass(frozen=True)
class Packed:
    """One sample's tokens."""

    ids: list[int]  # token ids, the image's placeholders among them
    positions: list[int]  # place of each token as its turn sees it: turns that stand alone all begin behind the image
    groups: list[int]  # 0 for the shared beginning, from 1 on the turn's number; a token sees its own group and group 0
    weights: list[float]  # what the prediction of this token counts, 0 for everything but answers
    kd_weights: list[float]  # of each token, how much of its target is what the model thought before training
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
    mask: torch.Tensor  # (batch, 1, length, length), true where attention is allowed
    # rows, columns: (targets,), where a prediction is made
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor  # (targets,), the token that comes next there
    weights: torch.Tensor  # (targets,), 0 for tokens of rejected answers
    kd_weights: torch.Tensor  # (targets,), 0..1, how much of the target is what the model thought before training
    turns: torch.Tensor  # (targets,), a number for each turn of the batch, to tell losses apart
    pairs: torch.Tensor  # (pairs, 2), for each preference the numbers of its two turns, the better one first
    margins: torch.Tensor  # (pairs,), by how much the better one was likelier before training, in nats

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})


class Packer:
    """Packs samples in the words of a processor's chat template.

    The template is rendered once with marks in the places of questions and answers; the text between them, tokenised
    apart from question and answer as generation meets them, is the same for every sample.
    """

    def __init__(self, processor: MiniGPTv2Processor) -> None:
        self.tokenizer: Any = processor.tokenizer
        image = processor.image_token
        marks = ["QUESTION-0", "ANSWER-0", "QUESTION-1", "ANSWER-1"]
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": marks[0]}]},
            {"role": "assistant", "content": marks[1]},
            {"role": "user", "content": marks[2]},
            {"role": "assistant", "content": marks[3]},
        ]
        text = processor.tokenizer.apply_chat_template(messages, chat_template=processor.chat_template, tokenize=False)
        head, _, rest = text.partition(image)
        self._lead, _, rest = rest.partition(marks[0])
        self._gap, _, rest = rest.partition(marks[1])
        self._again, _, rest = rest.partition(marks[2])
        self._end = self.tokenizer.eos_token
        if not self._again.startswith(self._end) or not rest.startswith(self._gap):
            raise ValueError("the chat template does not end answers with the tokenizer's end of sequence")
        self._again = self._again.removeprefix(self._end)
        self._prefix = self._ids([head])[0] + [processor.image_token_id] * processor.num_image_tokens

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def pack(self, sample: Sample) -> Packed:
        """Tokens of a sample; weights of an answer's tokens are 1 / sqrt(their number), end of turn included.

        So a long answer counts more than a short one, but not in proportion: otherwise captions would drown yes and no.
        A rejected answer is a turn of its own, behind the same question, that counts nothing.

        Raises:
            ValueError: a turn of a conversation has a rejected answer: what comes later would see both.
        """
        prefix = self._prefix + self._history(sample)
        size = len(prefix)
        packed = Packed(list(prefix), list(range(size)), [PREFIX] * size, [0.0] * size, [0.0] * size)
        place = size
        for number, turn in enumerate(sample.turns):
            group, place = (1, place) if sample.multi_turn else (number + 1, size)
            again = bool(sample.history) or (sample.multi_turn and number > 0)
            place = self._add(packed, turn, turn.answer, group, place, again, turn.kd_weight)
        for number, turn in enumerate(sample.turns):
            if turn.rejected is None:
                continue
            if sample.multi_turn:
                raise ValueError("a turn of a conversation has a rejected answer; give what came before as history")
            group, begin = len(sample.turns) + len(packed.pairs) + 1, len(packed)
            self._add(packed, turn, turn.rejected, group, size, bool(sample.history))
            packed.rejected_positions.extend(place for place in range(begin, len(packed)) if packed.weights[place])
            packed.weights[begin:] = [0.0] * (len(packed) - begin)
            packed.pairs.append((number + 1, group, turn.margin))
        return packed

    def _add(
        self, packed: Packed, turn: Turn, answer: str, group: int, place: int, again: bool, kd_weight: float = 0.0
    ) -> int:
        """Append a turn with its history, whose first token stands at position `place`; the position behind it.

        `again` says whether something was said before.
        """
        asked: list[int] = []
        for question, said in turn.history:
            asked += self._exchange(question, said, again)
            again = True
        ask, answered = self._ids(
            [(self._again if again else self._lead) + turn.question + self._gap, answer + self._end]
        )
        asked += ask
        length = len(asked) + len(answered)
        packed.ids.extend(asked + answered)
        packed.positions.extend(range(place, place + length))
        packed.groups.extend([group] * length)
        packed.weights.extend([0.0] * len(asked) + [len(answered) ** -0.5] * len(answered))
        packed.kd_weights.extend([kd_weight] * length)
        return place + length

    def _exchange(self, question: str, answer: str, again: bool) -> list[int]:
        """Tokens of a question and its answer, from which nothing is learnt."""
        before = self._again if again else self._lead
        return [token for part in self._ids([before + question + self._gap, answer + self._end]) for token in part]

    def _history(self, sample: Sample) -> list[int]:
        """Tokens of the turns that came before, to stand behind the image."""
        exchanges = enumerate(sample.history)
        return [token for number, (said, heard) in exchanges for token in self._exchange(said, heard, number > 0)]

    def prompt(self, question: str) -> list[int]:
        """Tokens of a first question with an image, up to where the answer begins."""
        return self._prefix + self._ids([self._lead + question + self._gap])[0]

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

    def table(lists: Sequence[Sequence[float]], fill: float, dtype: torch.dtype) -> torch.Tensor:
        out = torch.full((len(lists), length), fill, dtype=dtype)
        for row, values in enumerate(lists):
            out[row, : len(values)] = torch.tensor(values, dtype=dtype)
        return out

    ids = table([s.ids for s in samples], padding_id, torch.long)
    positions = table([s.positions for s in samples], 0, torch.long)
    groups = table([s.groups for s in samples], _PADDING, torch.long)
    weights = table([s.weights for s in samples], 0.0, torch.float32)
    kd_weights = table([s.kd_weights for s in samples], 0.0, torch.float32)
    same = groups.unsqueeze(2) == groups.unsqueeze(1)
    shared = (groups == PREFIX).unsqueeze(1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
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
        mask=((same | shared) & causal).unsqueeze(1),
        rows=rows,
        columns=places - 1,
        targets=ids[rows, places],
        weights=weights[rows, places],
        kd_weights=kd_weights[rows, places],
        turns=rows * 1000 + groups[rows, places],
        pairs=torch.tensor([pair[:2] for pair in pairs], dtype=torch.long).reshape(-1, 2),
        margins=torch.tensor([margin for *_, margin in pairs], dtype=torch.float32),
    )
