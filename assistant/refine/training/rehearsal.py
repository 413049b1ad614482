"""The model's own captions of the corrected images, to be learnt beside the corrections so that they stay as they are.

Rehearsing what a network itself says keeps it from forgetting without the data that it was taught with (Robins 1995;
Li and Hoiem 2016). It matters most where corrections are about photos and only rendered scenes are there for replay.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from fourfold.assistant.files import write_text
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.refine.training.samples import TrainingTarget, plain
from fourfold.assistant.training.data.sample import ImageRef, Sample, Turn
from fourfold.prompts.tasks import Task, instruction

_BATCH = 8
_LONGEST = 48  # tokens


def rehearsal(
    model: MiniGPTv2ForConditionalGeneration,
    processor: MiniGPTv2Processor,
    samples: Sequence[Sample],
    targets: Sequence[TrainingTarget],
    superseded: frozenset[tuple[Task, str]],
    path: Path,
    on_progress: OnProgress,
) -> list[Sample]:
    """A caption of each corrected image in the model's words of now.

    Captions that hold what was just corrected are left out, and so are images of which the caption was corrected.

    Args:
        model, processor: before the model is changed.
        samples: the corrections' samples, for their images.
        targets: what they were made from.
        superseded: answers out of use.
        path: file that keeps the captions of a run that may be interrupted.
        on_progress: told how many images are captioned.
    """
    images = list({sample.image.id: sample.image for sample in samples}.values())
    if path.is_file():
        captions = json.loads(path.read_text(encoding="utf-8"))
    else:
        captions = dict(
            zip([image.id for image in images], _captions(model, processor, images, on_progress), strict=True)
        )
        write_text(path, json.dumps(captions))
    unwanted: dict[str, set[str]] = {image.id: {answer for _, answer in superseded} for image in images}
    corrected = set()
    for target in targets:
        unwanted[target.correction.image].add(plain(target.correction.rejected))
        if target.answer is not None and target.turns[0].task in (Task.CAPTION, Task.GROUNDING):
            corrected.add(target.correction.image)
    question = instruction(Task.CAPTION)
    return [
        Sample((image,), (Turn(Task.CAPTION, question, captions[image.id], facts={"kind": "rehearsal"}),))
        for image in images
        if image.id not in corrected
        and plain(captions[image.id])
        and not any(f" {wrong} " in f" {plain(captions[image.id])} " for wrong in unwanted[image.id] if wrong)
    ]


def _captions(
    model: MiniGPTv2ForConditionalGeneration,
    processor: MiniGPTv2Processor,
    images: Sequence[ImageRef],
    on_progress: OnProgress,
) -> list[str]:
    """Greedy captions; "" where one does not end by itself."""
    import torch

    model.to("cuda" if torch.cuda.is_available() else "cpu")
    question = {"type": "text", "text": instruction(Task.CAPTION)}
    captions = []
    for start in range(0, len(images), _BATCH):
        on_progress(Progress("describing the images", start, len(images)))
        asked = [
            [{"role": "user", "content": [{"type": "image", "image": image.open()}, question]}]
            for image in images[start : start + _BATCH]
        ]
        inputs = processor.apply_chat_template(
            asked, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, padding=True
        ).to(model.device)
        with torch.inference_mode():
            written = model.generate(**inputs, do_sample=False, max_new_tokens=_LONGEST)
        for row in written[:, inputs["input_ids"].shape[1] :]:
            text = processor.tokenizer.decode(row)
            caption, end, _ = text.partition(processor.tokenizer.eos_token)
            captions.append(caption.strip() if end else "")
    on_progress(Progress("describing the images", len(images), len(images)))
    return captions
