"""The libraries at work here draw bars and warn about what is meant so; people are told in one bar of ours."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and warnings of compressed-tensors, llm-compressor and transformers."""
    import tqdm
    from transformers.utils import logging as transformers_logging

    make = tqdm.tqdm.__init__

    def hidden(self: tqdm.tqdm, *arguments: Any, **settings: Any) -> None:
        make(self, *arguments, **settings | {"disable": True})

    tqdm.tqdm.__init__ = hidden
    tracing = logging.getLogger("torch.fx._symbolic_trace")
    level = tracing.level
    tracing.setLevel(logging.ERROR)
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tqdm.tqdm.__init__ = make
        tracing.setLevel(level)
        if shown:
            transformers_logging.enable_progress_bar()
