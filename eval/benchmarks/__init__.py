"""The benchmarks: which files they come in, what they ask, how answers are scored."""

from fourfold.eval.benchmarks.benchmark import Benchmark, Drawing, Options, RuleScore
from fourfold.eval.benchmarks.choices import MMMU, MMBench, MMStar, MultipleChoice, RealWorldQA
from fourfold.eval.benchmarks.documents import ChartQA, DocVQA
from fourfold.eval.benchmarks.gqa import GQA
from fourfold.eval.benchmarks.iconvqa import IconVQA
from fourfold.eval.benchmarks.refcoco import RefCOCO
from fourfold.eval.benchmarks.regions import Detection, PhraseGrounding
from fourfold.eval.benchmarks.vqa import VQA, VizWiz
from fourfold.eval.benchmarks.yes_no import POPE, VSR, HatefulMemes
from fourfold.eval.benchmarks.yes_no_groups import MME, HallusionBench
from fourfold.prompts.errors import UserError

__all__ = ["BENCHMARKS", "Benchmark", "Drawing", "Options", "RuleScore", "benchmark_named"]

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        VQA("okvqa", ("vqa_2021", "vqa_pre2021", "minigpt4")),
        VQA("vqav2", ("vqa_2021", "vqa_pre2021", "minigpt4")),
        VQA("textvqa", ("evalai_m4c", "vqa_2021", "vqa_pre2021", "minigpt4")),
        VizWiz(),
        GQA(),
        RefCOCO("refcoco"),
        RefCOCO("refcoco+"),
        RefCOCO("refcocog"),
        PhraseGrounding(),
        Detection(),
        POPE(),
        VSR(),
        HatefulMemes(),
        IconVQA(),
        MMBench(),
        MMStar(),
        MMMU(),
        MultipleChoice("scienceqa", {"official": "llava", "vlmevalkit": "vlmevalkit"}),
        MultipleChoice("ai2d", {"lmms_eval": "ai2d", "vlmevalkit": "vlmevalkit"}),
        MultipleChoice("seedbench", {"lmms_eval": "seed_bench", "vlmevalkit": "vlmevalkit"}),
        RealWorldQA(),
        MME(),
        HallusionBench(),
        ChartQA(),
        DocVQA(),
    )
}


def benchmark_named(name: str) -> Benchmark:
    """The benchmark called `name`; UserError with the names there are."""
    try:
        return BENCHMARKS[name.lower()]
    except KeyError:
        raise UserError(f"no benchmark is called {name!r}; there are: {', '.join(BENCHMARKS)}") from None
