from itertools import islice

import pytest
import torch

from fourfold.assistant.training.data.mixture import Mixture, MixtureConfig
from fourfold.assistant.training.dataset import BucketedDataset, batches
from fourfold.assistant.training.packing import Packer
from fourfold.prompts.errors import UserError
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


def test_images_of_a_batch_are_those_of_its_placeholders(packer: Packer) -> None:
    config = MixtureConfig(scenes=64, scenes_per_epoch=32, scene_tasks=TASKS, no_picture=0.3, two_pictures=0.3, seed=2)
    dataset = BucketedDataset(Mixture(config), packer, batch_size=4, bucket=20)
    counts = set()
    placeholder = tiny_processor().image_token_id
    for made in dataset[0]:
        counts |= set(made.batch.images.tolist())
        assert len(made.images) == made.batch.images.sum()
        found = (made.batch.ids == placeholder).sum(1)
        assert found.tolist() == (made.batch.images * tiny_processor().num_image_tokens).tolist()
    assert counts == {0, 1, 2}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (MixtureConfig(), "nothing would be learnt"),
        (MixtureConfig(scenes=4, scene_tasks=TASKS), "scenes_per_epoch"),
        (MixtureConfig(scenes=4, scenes_per_epoch=4, scene_tasks={"talk": 1}), "can be asked about any of 4"),
    ],
)
def test_a_mixture_that_asks_nothing_is_refused(packer: Packer, config: MixtureConfig, said: str) -> None:
    with pytest.raises(UserError, match=said):
        BucketedDataset(Mixture(config), packer, batch_size=2, bucket=2)[0]


def test_workers_hand_over_what_is_made_here(packer: Packer) -> None:
    dataset = BucketedDataset(mixture(), packer, batch_size=4, bucket=4)
    here, there = (list(islice(batches(dataset, 3, workers), 9)) for workers in (0, 2))
    for mine, theirs in zip(here, there, strict=True):
        assert mine.images == theirs.images
        for name, tensor in vars(mine.batch).items():
            assert torch.equal(tensor, getattr(theirs.batch, name)), name
