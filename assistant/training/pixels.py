"""Many images read, cropped and resized, ahead of their use."""

import mmap
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fourfold.assistant.training.data.sample import ImageRef

_AHEAD = 2  # batches that each process makes ahead


def load_pixels(
    images: Sequence[ImageRef],
    size: tuple[int, int],
    resample: Image.Resampling,
    batch_size: int,
    workers: int = 0,
) -> Iterator[torch.Tensor]:
    """The images squashed to `size`, in batches, uint8: (batch, height, width, 3), each valid until the next one.

    Args:
        size: width, height.
        workers: processes that make them; 0 for a thread, which is where most of an image's time passes in Pillow
            without Python's lock. Where a process cannot be forked safely, that is elsewhere than on Linux, threads.
    """
    if workers and sys.platform == "linux":
        return _by_processes(images, size, resample, batch_size, workers)
    return _by_threads(images, size, resample, batch_size, max(1, workers))


def _load(image: ImageRef, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    return np.asarray(image.open().resize(size, resample))


def _by_threads(
    images: Sequence[ImageRef], size: tuple[int, int], resample: Image.Resampling, batch_size: int, workers: int
) -> Iterator[torch.Tensor]:
    waiting: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for start in range(0, len(images), batch_size):
                for image in images[start : start + batch_size]:
                    waiting.append(pool.submit(_load, image, size, resample))
                if start:
                    yield torch.from_numpy(np.stack([waiting.popleft().result() for _ in range(batch_size)]))
            yield torch.from_numpy(np.stack([future.result() for future in waiting]))
        finally:
            pool.shutdown(cancel_futures=True)


class _Slots(Dataset):
    """Batches that worker processes write into memory that they share with this one."""

    def __init__(
        self, images: Sequence[ImageRef], size: tuple[int, int], resample: Image.Resampling, batch_size: int, count: int
    ) -> None:
        self._images, self._size, self._resample, self._batch_size = images, size, resample, batch_size
        shape = (count, batch_size, size[1], size[0], 3)
        # Not the loader's own way, a file under /dev/shm for each tensor: containers often have 64 MB there.
        self._slots = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)

    def __len__(self) -> int:
        return -(-len(self._images) // self._batch_size)

    def __getitem__(self, number: int) -> int:
        """Write batch `number`; how many images it has."""
        some = self._images[number * self._batch_size : (number + 1) * self._batch_size]
        for place, image in zip(self.batch(number, len(some)).numpy(), some, strict=True):
            place[:] = _load(image, self._size, self._resample)
        return len(some)

    def batch(self, number: int, length: int) -> torch.Tensor:
        """The batch of that number, once it is written and until its place is needed again."""
        return torch.from_numpy(self._slots[number % len(self._slots)][:length])


def _by_processes(
    images: Sequence[ImageRef], size: tuple[int, int], resample: Image.Resampling, batch_size: int, workers: int
) -> Iterator[torch.Tensor]:
    workers = min(workers, -(-len(images) // batch_size))
    # When the loader hands a batch out, it has asked for as many later ones as its processes may make ahead.
    slots = _Slots(images, size, resample, batch_size, count=workers * _AHEAD + 1)
    loader = DataLoader(
        slots,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # or the run's own would be drawn from
    )
    for number, length in enumerate(loader):
        yield slots.batch(number, length)
