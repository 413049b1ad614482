"""transformers' own tests of every processor, on the one that comes with a checkpoint."""

import tempfile
import unittest
from pathlib import Path
from typing import Any

from conftest import REFERENCE
from transformers import AutoProcessor
from transformers_tests import load

_DIRECTORY = tempfile.TemporaryDirectory()
common = load("test_processing_common", Path(_DIRECTORY.name))
_PROCESSOR = AutoProcessor.from_pretrained(REFERENCE / "tiny", trust_remote_code=True)


class TestProcessor(common.ProcessorTesterMixin, unittest.TestCase):
    # Where a class has its code beside it, saving leaves a note on the object, which loading does not.
    processor_class = type("MiniGPTv2Processor", (type(_PROCESSOR),), {"_auto_class": None})
    model_id = str(REFERENCE / "tiny")

    @classmethod
    def _setup_from_pretrained(cls, model_id: str, **kwargs: Any) -> Any:
        return cls.processor_class.from_pretrained(model_id, **kwargs)

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        return {"num_image_tokens": _PROCESSOR.num_image_tokens, "chat_template": _PROCESSOR.chat_template}
