"""The questions with which MiniGPT-v2 was evaluated, a prompt for each benchmark."""

from collections.abc import Mapping
from string import Formatter
from types import MappingProxyType

from prompts.errors import UserError

_SHORT = "[vqa] Based on the image, respond to this question with a short answer: {question}"

# OK-VQA, GQA, VizWiz, VSR and RefCOCO are asked as MiniGPT-v2 was. HatefulMemes had no tag; its wording here is ours.
# For the other benchmarks the short-answer form stands in.
BENCHMARK_PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        "okvqa": _SHORT,
        "gqa": _SHORT,
        "iconvqa": _SHORT,
        "textvqa": _SHORT,
        "pope": _SHORT,
        "vqav2": _SHORT,
        "vizwiz": _SHORT + " and reply 'unanswerable' when the provided information is insufficient",
        "vsr": "[vqa] Based on the image, is this statement true or false? {caption}",
        "refcoco": "[refer] give me the location of {sent}",
        "refcoco+": "[refer] give me the location of {sent}",
        "refcocog": "[refer] give me the location of {sent}",
        "hateful_memes": 'This is an image with the text "{text}" on it. Is it hateful? Answer yes or no.',
    }
)


def benchmark_prompt(benchmark: str, **fields: str) -> str:
    """The evaluation question of `benchmark`, with the sample's own words left as they are.

    Args:
        benchmark: a key of `BENCHMARK_PROMPTS`.
        **fields: the sample's text: `question`, `caption` (VSR), `sent` (RefCOCO) or `text` (HatefulMemes).

    Raises:
        UserError: the benchmark is unknown, or the fields are not the ones it takes.
    """
    try:
        form = BENCHMARK_PROMPTS[benchmark]
    except KeyError:
        names = ", ".join(BENCHMARK_PROMPTS)
        raise UserError(f"no benchmark is called {benchmark!r}; there are: {names}") from None
    needed = {name for _, name, _, _ in Formatter().parse(form) if name}
    if needed != set(fields):
        given = ", ".join(sorted(fields)) or "nothing"
        raise UserError(f"the prompt of {benchmark} takes {', '.join(needed)}; got {given}")
    return form.format(**fields)
