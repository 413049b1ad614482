"""`transformers serve` with our model class, as a peer to measure against.

    python -m benchmarks.speed.transformers_serve DIR --port 8001 --device cpu

It looks model classes up by name in transformers' own tables, so ours has to be entered there first.
"""

import sys

from transformers.cli.serving import model_manager
from transformers.models.auto import modeling_auto

from fourfold.assistant.model import MiniGPTv2Config, MiniGPTv2ForConditionalGeneration

if __name__ == "__main__":
    name = MiniGPTv2ForConditionalGeneration.__name__
    # By way of the module that will look: the package's lazy module is exchanged while it is being imported, so that
    # `import transformers` up there may give another object.
    setattr(model_manager.transformers, name, MiniGPTv2ForConditionalGeneration)
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[MiniGPTv2Config.model_type] = name
    from transformers.cli.transformers import app

    sys.argv.insert(1, "serve")
    app()
