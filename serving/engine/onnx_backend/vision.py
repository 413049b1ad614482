"""Images to features through onnxruntime: numpy arrays in and out; and in which format it computes them here."""

import timeit
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, get_args

import numpy as np
import onnxruntime

from fourfold.assistant.checkpoints.mapped_weights import give_memory_back
from fourfold.serving.engine.onnx_backend.graph import Graph, cpu_session
from fourfold.serving.engine.onnx_backend.vision_graph import TowerFormat, product_graph, tower_graph
from fourfold.serving.engine.threads import SessionPool


class OnnxVisionTower:
    """CLIP's image tower on the CPU. Not thread-safe.

    Args:
        tensors: of transformers' `CLIPVisionModel` in float32, by its names for them; kept, for sessions to come.
        config: `vision_config` of the checkpoint as in its `config.json`, see `can_be_built`.
        weights: in which format products are computed, see `tower_graph`.
        now: threads that may be used, see `SessionPool`.

    Attributes:
        weight_bytes: of the weights that every image reads.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        config: Mapping[str, Any],
        weights: TowerFormat,
        *,
        now: Callable[[], int] | None = None,
    ) -> None:
        graph: Graph | None = tower_graph(tensors, config, weights)
        assert graph is not None
        self.weight_bytes = sum(array.nbytes for array in graph.weights.values())

        def make(threads: int) -> onnxruntime.InferenceSession:
            nonlocal graph
            # onnxruntime lays the weights out anew, so the first session's are not kept for the next.
            taken, graph = graph or tower_graph(tensors, config, weights), None
            session = cpu_session(taken, threads)
            del taken
            give_memory_back(tensors)
            return session

        self._sessions = SessionPool(make, now=now, nbytes=2 * self.weight_bytes)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Features as `MiniGPTv2Model.encode_images` gives them.

        Args:
            pixels: (images, 3, size, size), float32, resized and normalised.

        Returns:
            (images, patches, vision width), float32: the last block's output without the class token.
        """
        session = self._sessions.session()
        # One after the other: several at once take longer, since what lies between products fits the caches no more.
        features = [session.run(["features"], {"pixels": image[None]})[0] for image in pixels]
        return np.concatenate(features)


@cache
def choose_tower_format() -> TowerFormat:
    """The faster format on this processor that multiplies correctly; takes milliseconds.

    onnxruntime multiplies 8-bit numbers fast where there are instructions for it (VNNI, AMX, dot products of ARM). With
    AVX2 alone sums of two products overflow 16 bits, which the check sees.
    """
    rows, inputs, outputs = 64, 768, 768
    # The largest sums that can come up, beside ordinary ones.
    weight = np.full((outputs, inputs), 127, np.float32)
    weight[1::2] = -127
    pixels = np.random.default_rng(0).standard_normal((rows, inputs)).astype(np.float32)
    pixels[::2] = 1
    seconds, found = {}, {}
    for weights in get_args(TowerFormat):
        session = cpu_session(product_graph(weight, weights), 1)
        call = partial(session.run, None, {"inputs": pixels})
        found[weights] = call()[0]
        seconds[weights] = min(timeit.repeat(call, number=1, repeat=7))
    error = np.linalg.norm(found["int8"] - found["float32"]) / np.linalg.norm(found["float32"])
    return "int8" if error < 1e-3 and seconds["int8"] < seconds["float32"] else "float32"
