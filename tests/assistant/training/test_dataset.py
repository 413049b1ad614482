from itertools import islice

import pytest

from fourfold.assistant.training.data.mixture import Mixture, MixtureConfig
from fourfold.assistant.training.dataset import BucketedDataset, batches
from fourfold.assistant.training.packing import Packer
from tests.tiny import tiny_processor

TASKS = {"caption": 1, "existence": 1, "colour": 1}


class CountingMixture(Mixture):
    drawn: list[tuple[str, int]]

    def draw(self, entry, epoch):
        self.drawn.append(entry)
        return super().draw(entry, epoch)


@pytest.fixture(scope="module")
def packer() -> Packer:
    return Packer(tiny_processor())


def mixture() -> CountingMixture:
    made = CountingMixture(MixtureConfig(scenes=64, scenes_per_epoch=64, scene_tasks=TASKS, seed=2))
    made.drawn = []
    return made


def _batches(packer: Packer, rank: int, world: int, first: int = 0, count: int = 8) -> tuple[list, list]:
    source = mixture()
    dataset = BucketedDataset(source, packer, batch_size=4, bucket=4, world=world, rank=rank)
    return list(islice(batches(dataset, first), count)), source.drawn


def test_processes_share_an_epoch_and_draw_only_their_own(packer: Packer) -> None:
    parts = [_batches(packer, rank, 2) for rank in range(2)]
    shown = [image.id for made, _ in parts for batch in made for image in batch.images]
    assert sorted(shown) == sorted({image.id for image in mixture().images()}), "each scene once"
    assert [len(drawn) for _, drawn in parts] == [32, 32]


def test_what_processes_do_at_one_time_is_of_about_one_length(packer: Packer) -> None:
    (one, _), (two, _) = (_batches(packer, rank, 2) for rank in range(2))
    lengths = [[batch.batch.ids.shape[1] for batch in part] for part in (one, two)]
    apart = max(abs(a - b) for a, b in zip(*lengths, strict=True))
    assert max(lengths[0]) - min(lengths[0]) > apart


def test_a_run_goes_on_in_the_middle_of_a_bucket(packer: Packer) -> None:
    whole, _ = _batches(packer, 1, 2)
    later, _ = _batches(packer, 1, 2, first=3, count=5)
    assert [[image.id for image in batch.images] for batch in later] == [
        [image.id for image in batch.images] for batch in whole[3:]
    ]
