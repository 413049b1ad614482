"""Batches of a source of samples, in an order that follows from the seed and can begin anywhere."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from fourfold.assistant.training.data.mixture import MixtureConfig
from fourfold.assistant.training.data.sample import ImageRef, Sample
from fourfold.assistant.training.packing import Batch, Packer, collate
from fourfold.prompts.errors import UserError


class Source(Protocol):
    """Where samples come from: a `Mixture`, or what refinement puts beside one. Everything follows from its seed."""

    @property
    def config(self) -> MixtureConfig: ...

    def images(self) -> Iterator[ImageRef]: ...

    def epoch(self, epoch: int) -> list[tuple[str, int]]: ...

    def draw(self, entry: tuple[str, int], epoch: int) -> Sample: ...


@dataclass
class Images:
    """A batch and all images of its samples, in their order; a sample has none, one or two."""

    batch: Batch
    images: list[ImageRef]


class BucketedDataset(Dataset):
    """Buckets of the endless run of epochs: `bucket` batches each, whose samples were sorted by length together.

    Of `world` processes each draws and packs every world-th bucket, from number `rank` on. All put the batches of their
    buckets in one order, by length and then as the number of the round says, so that those which they work on at one
    time are of about one length and none waits.

    Raises:
        UserError: there are no samples, or a bucket's samples have no turn.
    """

    def __init__(
        self, source: Source, packer: Packer, batch_size: int, bucket: int, world: int = 1, rank: int = 0
    ) -> None:
        self._source = source
        self._packer = packer
        self._batch_size = batch_size
        self._world, self._rank = world, rank
        size = len(source.epoch(0))
        if not size:
            raise UserError("nothing would be learnt: give the mixture photos, or scenes and scenes_per_epoch")
        self._size = min(size, batch_size * bucket)  # a mixture smaller than a bucket is one bucket
        self.batches_per_bucket = max(1, self._size // batch_size)
        self._buckets_per_epoch = max(1, size // self._size)

    def __len__(self) -> int:
        return 10**9  # epochs go on as long as there are steps

    def __getitem__(self, round_number: int) -> list[Images]:
        epoch, place = divmod(round_number * self._world + self._rank, self._buckets_per_epoch)
        entries = self._source.epoch(epoch)[place * self._size : (place + 1) * self._size]
        samples = [self._source.draw(entry, epoch) for entry in entries]
        packed = [(self._packer.pack(sample), sample.images) for sample in samples if sample.turns]
        if not packed:
            raise UserError(f"none of the mixture's tasks can be asked about any of {len(samples)} images: add tasks")
        packed.sort(key=lambda pair: len(pair[0]))
        step = max(1, -(-len(packed) // self.batches_per_bucket))
        batches = [packed[i * step : (i + 1) * step] or packed[-1:] for i in range(self.batches_per_bucket)]
        random.Random(f"chunk {self._source.config.seed} {round_number}").shuffle(batches)
        return [
            Images(
                collate([p for p, _ in batch], self._packer.padding_id),
                [image for _, images in batch for image in images],
            )
            for batch in batches
        ]


def batches(dataset: BucketedDataset, first: int, workers: int = 0) -> Iterator[Images]:
    """A process's batches from number `first` on, the same whatever the number of workers."""
    start, skip = divmod(first, dataset.batches_per_bucket)
    # Made here, before there are workers: what is read and cached for it they then share instead of reading it each.
    bucket = dataset[start]
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start + 1, len(dataset)),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        # Its own, or beginning in the middle would draw from the generator that dropout uses, and change the run.
        generator=torch.Generator(),
    )
    later = iter(loader)  # which starts the workers
    yield from bucket[skip:]
    for bucket in later:
        yield from bucket
