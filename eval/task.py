"""What a model is asked: samples, and tasks made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from fourfold.assistant.images import Attachment, load_image_file

Edit = Callable[[Image.Image], Image.Image]


class ImageSource(Protocol):
    """An image by reference: nothing is read before it is asked about."""

    @property
    def id(self) -> str: ...  # of the whole image

    @property
    def key(self) -> str: ...  # one string for one set of pixels, which are read once for all that is asked about them

    def open(self) -> Image.Image: ...  # the upright RGB picture


@runtime_checkable
class EncodedImage(ImageSource, Protocol):
    """An image that is a file already, whose bytes an endpoint gets as they are."""

    def attachment(self) -> Attachment: ...


@dataclass(frozen=True)
class FileImage:
    """An image file; endpoints get its bytes as they are."""

    path: Path

    @property
    def id(self) -> str:
        return str(self.path)

    key = id

    def open(self) -> Image.Image:
        """UserError where the file is no image."""
        return load_image_file(self.path)

    def attachment(self) -> Attachment:
        """The file as it is."""
        return Attachment.from_path(self.path)


@dataclass(frozen=True)
class Sample:
    """One question, whose answer depends on nothing else in its task.

    Attributes:
        id: unique in its task, and its key in the log; samples that must get the same answer may share it.
        prompt: the question as the model reads it; in what a benchmark reads from its files the bare words, "" where
            only annotations are at hand.
        image: what is asked about, None for none.
        reference: what a scorer compares the answer with; each task says what that is.
        candidates: answers to be ranked by their likelihood beside the written one; () for none.
        history: earlier turns of the conversation, (question, answer) pairs; the image belongs to the first.
        cluster: unit of the statistics, the image's name.
        groups: kind of group -> the sample's group, for sub-scores.
        edit: what is done to the image before it is shown.
        max_tokens: of the answer; None for the task's.
    """

    id: str
    prompt: str
    image: ImageSource | None = None
    reference: Any = None
    candidates: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    cluster: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    edit: Edit | None = None
    max_tokens: int | None = None

    def picture(self, opened: Image.Image | None = None) -> Image.Image | None:
        """What is shown, edited; `opened` is the image where the caller has it already."""
        if self.image is None:
            return None
        image = opened if opened is not None else self.image.open()
        return self.edit(image) if self.edit else image

    def attachment(self) -> Attachment | None:
        """The same as a file: unedited files unchanged, all else as PNG."""
        if isinstance(self.image, EncodedImage) and self.edit is None:
            return self.image.attachment()
        picture = self.picture()
        return None if picture is None else Attachment.from_image(picture)

    def messages(self, image_part: dict[str, Any] | None) -> list[dict[str, Any]]:
        """OpenAI's chat messages with the image, as this content part, in the first turn."""
        turns = [*self.history, (self.prompt, None)]
        messages: list[dict[str, Any]] = []
        for number, (question, answer) in enumerate(turns):
            text = {"type": "text", "text": question}
            content = [image_part, text] if number == 0 and image_part is not None else question
            messages.append({"role": "user", "content": content})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        return messages


@dataclass(frozen=True)
class Task:
    """Samples that are asked alike and scored together; decoding is greedy always.

    Attributes:
        name: what the progress bar says.
        samples: in a fixed order.
        max_tokens: of an answer, where a sample says nothing else.
        template: variables for the model's chat template.
        score: from the samples' answers, in their order, to their scores, 0..1; None where something else scores.
    """

    name: str
    samples: Sequence[Sample]
    max_tokens: int = 20
    template: Mapping[str, bool] = field(default_factory=dict)
    score: Callable[[Sequence[str]], list[float]] | None = field(default=None, repr=False)

    @property
    def clusters(self) -> list[str]:
        """Of each sample, for the statistics."""
        return [sample.cluster for sample in self.samples]
