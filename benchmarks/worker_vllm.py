"""vLLM on a CPU in a process of its own: reads lines `{"tokens": N}`, answers `{"seconds": S}` of saying them.

.venv-vllm/bin/python -m benchmarks.worker_vllm DIRECTORY
"""

import json
import os
import sys
import time

PROMPT = "Tell me a long story about a fox and a bear."


def main() -> None:
    os.environ.update({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM says much on stdout
    import vllm

    # Its own choice of a number format, and no compiler: as `fourfold serve --engine vllm` runs it on a CPU.
    engine = vllm.LLM(model=sys.argv[1], enforce_eager=True, max_model_len=1024)

    def seconds(tokens: int) -> float:
        sampling = vllm.SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        started = time.perf_counter()
        engine.generate([PROMPT], sampling, use_tqdm=False)
        return time.perf_counter() - started

    seconds(2)
    print(json.dumps({"version": vllm.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)["tokens"]
        # The prompt is cached: what remains of the first is about one step.
        first = seconds(1)
        print(json.dumps({"seconds": seconds(wanted + 1) - first}), file=answers, flush=True)


if __name__ == "__main__":
    main()
