"""Tools for what the model and its read-outs cannot do: detect, count, segment, read text, zoom.

As LangChain's tools they are in `toolbox`, with an agent in `agent`; these are the functions behind them.
"""

from fourfold.assistant.tools.coco import class_of
from fourfold.assistant.tools.detector import Detector, count, detect, detector_if_fetched
from fourfold.assistant.tools.segmenter import segment

__all__ = ["Detector", "class_of", "count", "detect", "detector_if_fetched", "segment"]
