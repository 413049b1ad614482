"""llama.cpp in a process of its own: reads lines `{"tokens": N}`, answers `{"seconds": S}` of saying them.

    python -m benchmarks.worker_llama FILE.gguf THREADS

`FOURFOLD_LLAMA_CPP` names the folder where `pip install --target` put llama-cpp-python, where it is not installed.
"""

import json
import os
import sys
import time


def main() -> None:
    sys.path[:0] = [os.environ["FOURFOLD_LLAMA_CPP"]] if "FOURFOLD_LLAMA_CPP" in os.environ else []
    import llama_cpp

    model = llama_cpp.Llama(sys.argv[1], n_ctx=2048, n_threads=int(sys.argv[2]), verbose=False)
    prompt = model.tokenize(b"Tell me a long story about a fox and a bear.", add_bos=True)
    print(json.dumps({"version": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)["tokens"]
        # The generator does not stop at an end token.
        tokens = model.generate(prompt, temp=0.0)
        next(tokens)
        started = time.perf_counter()
        for _ in range(wanted):
            next(tokens)
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
