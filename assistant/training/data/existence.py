""" "Is there a dog?": what is asked of which photo, so that neither the words nor the habit of a scene answer it.

In POPE's manner (Li et al. 2023, arXiv:2305.10355): what is absent is drawn at random, by popularity, or by how often
it occurs together with what is present. Beyond POPE, each question gets yes and no equally often over the photos.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from fourfold.assistant.english import related, singular, words_in, words_of
from fourfold.assistant.tools.coco import class_of
from fourfold.assistant.training.data.photos import EXHAUSTIVE, Photo

NEGATIVES = ("random", "popular", "adversarial")
# Captions leave these out though they are there, or mean several things by them.
_UNSURE = words_in("mouth nose head arm finger wing tongue foot hand paint goal flip window leaf sunset tattoo")
# Captions leave these out too, but a detector finds them.
_LARGE = words_in("car chair")
_DOUBT = 0.3  # the chance that a detector sees something from which it is not denied, though captions would name it


class Existence:
    """Which nouns of a vocabulary a photo shows, and which it certainly does not show.

    Args:
        photos: from which the vocabulary and the balance are counted; all of one kind, captioned or exhaustively
            labelled.
        exhaustive: labels name everything; otherwise captions must be trusted, and only for nouns that captions
            rarely leave out.
        least: in how many photos a noun must be boxed to be asked for.
    """

    def __init__(self, photos: Sequence[Photo], exhaustive: bool, least: int = 12) -> None:
        self.exhaustive = exhaustive
        boxed = Counter(noun for photo in photos for noun in _boxed(photo))
        nouns = [noun for noun, count in boxed.most_common() if count >= least]
        if not exhaustive:
            salience = _salience(photos)
            said = {noun for noun in nouns if salience[noun] >= 0.39 and noun not in _UNSURE}
            looked = any(photo.detected for photo in photos)
            self._detected = frozenset(_LARGE) - said if looked else frozenset()
            nouns = [noun for noun in nouns if noun in said or noun in self._detected]
        self.nouns: tuple[str, ...] = tuple(nouns)
        self._index = {noun: i for i, noun in enumerate(nouns)}
        self._related = {noun: related(noun) for noun in nouns}
        self._class = {noun: class_of(noun) or "" for noun in nouns}
        self._photos = photos

    def present(self, photo: Photo) -> list[str]:
        """Nouns of the vocabulary that have a box in the photo."""
        found = set(_boxed(photo))
        return [noun for noun in self.nouns if noun in found]

    def absent(self, photo: Photo) -> list[str]:
        """Nouns of the vocabulary that are surely not there: nothing related to them is mentioned."""
        said = photo.mentioned
        if self.exhaustive:
            return [noun for noun in self.nouns if noun not in said]
        absent = [noun for noun in self.nouns if said.isdisjoint(self._related[noun])]
        if photo.detected is None:
            return [noun for noun in absent if noun not in self._detected]
        chances = {noun: photo.detected.possible.get(self._class[noun], 0.0) for noun in absent}
        return [noun for noun, chance in chances.items() if chance <= (0.0 if noun in self._detected else _DOUBT)]

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Balancing weights (nouns,) and lift of co-occurrence (nouns, nouns)."""
        shown = np.zeros((len(self._photos), len(self.nouns)), np.float32)
        allowed = np.zeros_like(shown)
        for row, photo in enumerate(self._photos):
            shown[row, [self._index[noun] for noun in self.present(photo)]] = 1
            allowed[row, [self._index[noun] for noun in self.absent(photo)]] = 1
        asked = shown.any(axis=1)
        shown, allowed = shown[asked], allowed[asked]
        frequency = shown.mean(axis=0) + 1e-6
        together = (shown.T @ shown) / (shown.sum(axis=0)[:, None] + 1e-6)
        lift = np.clip(together / frequency[None], 0.1, 10).astype(np.float32)
        affinity = allowed * ((shown @ lift) / shown.sum(axis=1, keepdims=True))
        yes = (shown / shown.sum(axis=1, keepdims=True)).sum(axis=0)
        weight = frequency.copy()
        for _ in range(50):  # proportional fitting: as many expected noes as yeses for each noun
            odds = affinity * weight
            no = (odds / (odds.sum(axis=1, keepdims=True) + 1e-9)).sum(axis=0)
            weight *= np.clip((yes + 1e-3) / (no + 1e-3), 0.2, 5)
            weight /= weight.sum()
        return weight, lift

    def draw_absent(self, photo: Photo, rng: random.Random) -> str | None:
        """A noun for a question whose answer is no, hard and balanced; None where there is none."""
        absent, present = self.absent(photo), self.present(photo)
        if not absent or not present:
            return None
        weight, lift = self._tables
        columns = [self._index[noun] for noun in absent]
        affinity = lift[[self._index[noun] for noun in present]][:, columns].mean(axis=0)
        return rng.choices(absent, weights=(weight[columns] * affinity).tolist())[0]

    def held_out_pairs(self, photos: Sequence[Photo], seed: int) -> list[tuple[Photo, str, str | None]]:
        """Balanced questions: (photo, noun, None) for a yes, (photo, noun, kind of negative) for a no.

        For every yes there is one no about the same photo, its kind in turn random, popular, adversarial; among the
        nouns that the kind allows, the one is taken for which the noes are furthest behind the yeses, so that the
        same question has both answers.
        """
        rng = random.Random(f"existence {seed}")
        photos = [photo for photo in photos if self.present(photo) and self.absent(photo)]
        asked = []
        for photo in photos:
            present = self.present(photo)
            asked += [(photo, noun) for noun in rng.sample(present, min(3, len(present)))]
        rng.shuffle(asked)
        behind = Counter(noun for _, noun in asked)
        popular = set(self.nouns[: max(10, len(self.nouns) // 5)])
        _, lift = self._tables
        taken: dict[str, set[str]] = defaultdict(set)
        items: list[tuple[Photo, str, str | None]] = []
        for number, (photo, noun) in enumerate(asked):
            kind = NEGATIVES[number % 3]
            absent = [other for other in self.absent(photo) if other not in taken[photo.id]]
            if kind == "popular":
                absent = [other for other in absent if other in popular]
            elif kind == "adversarial":
                rows = [self._index[other] for other in self.present(photo)]
                near = {other: lift[rows, self._index[other]].mean() for other in absent}
                absent = sorted(absent, key=lambda other: -near[other])[: max(8, len(absent) // 5)]
            if not absent:
                continue
            rng.shuffle(absent)
            chosen = max(absent, key=lambda other: behind[other])
            behind[chosen] -= 1
            taken[photo.id].add(chosen)
            items += [(photo, noun, None), (photo, chosen, kind)]
        return items


def _boxed(photo: Photo) -> list[str]:
    """Nouns of what has a box, by people or a detector; a person only where people say "person", not "man"."""
    nouns = [noun for thing in photo.things for noun in thing.nouns]
    detected = photo.detected.some_of if photo.detected else ()
    return [*dict.fromkeys((*nouns, *(label for label in detected if label != "person")))]


def _salience(photos: Sequence[Photo]) -> Counter[str]:
    """Mean part of a photo's captions that mention a noun, over the photos where one of them does."""
    total: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for photo in photos:
        said = Counter(word for caption in photo.captions for word in {singular(w) for w in words_of(caption)})
        for word, count in said.items():
            total[word] += 1
            parts[word] += count / len(photo.captions)  # type: ignore[assignment]
    return Counter({word: parts[word] / total[word] for word in total})


def by_kind(photos: Sequence[Photo]) -> dict[str, Existence]:
    """An `Existence` for every kind of source: "captioned", and each exhaustively labelled source by its name."""
    trained = [photo for photo in photos if not photo.held_out]
    found = {}
    captioned = [photo for photo in trained if photo.mentions]
    if captioned:
        found["captioned"] = Existence(captioned, exhaustive=False)
    for source in EXHAUSTIVE:
        labelled = [photo for photo in trained if photo.source == source]
        if labelled:
            found[source] = Existence(labelled, exhaustive=True, least=3)
    return found
