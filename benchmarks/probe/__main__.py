"""Who answers what: the same checks by stock clients and attackers, of this server, `transformers serve` and vLLM.

    python -m benchmarks.probe [--model DIR | --tiny] [--only NAME ...] [--json out.json] [--document]

A check is passed where the client takes the answer and what was asked for is in it; being accepted is not enough. The
servers run one after another, on the CPU, each started as its own documentation says (`make peers` installs them);
"vllm" is `fourfold serve --engine vllm`, "vllm serve" vLLM as it comes. `--document` writes docs/trust.md's tables.
"""

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import openai

from benchmarks.probe import GROUPS, probe, tables
from benchmarks.probe.asked import Asked
from benchmarks.questions import ROOT, jpeg, picture
from benchmarks.speed.report import put_between
from benchmarks.speed.servers import Server, commands
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.files import write_text
from fourfold.assistant.images import Attachment


@contextmanager
def trap() -> Iterator[tuple[str, list[str]]]:
    """A web server here that gives a picture to whoever asks: its address, and the paths that it was asked for."""
    asked: list[str] = []
    image = jpeg(picture())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-type", "image/jpeg")
            self.end_headers()
            self.wfile.write(image)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """Start each server, ask it, print the tables."""
    known = list(commands(Path(), 0))
    parser = argparse.ArgumentParser(
        prog="benchmarks.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", help="a checkpoint directory; default: fourfold-mini")
    model.add_argument("--tiny", action="store_true", help="a tiny checkpoint of random weights, made for the run")
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="servers to ask")
    parser.add_argument("--json", type=Path, help="where the answers go")
    parser.add_argument("--document", action="store_true", help="write the tables of docs/trust.md")
    given = parser.parse_args()
    photo = Attachment(jpeg(picture()), "picture")
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        logs = Path(scratch)
        checkpoint = _tiny(logs / "tiny") if given.tiny else resolve_model(given.model)
        for name in given.only:
            print(f"asking: {name}", file=sys.stderr, flush=True)
            try:
                with closing(Server(name, checkpoint, logs)) as server, trap() as (address, trapped):
                    url = str(server.client.base_url).rstrip("/").removesuffix("/v1")
                    found[name] = probe(Asked(url, server.called, photo, checkpoint, address, trapped))
            except (OSError, RuntimeError, openai.APIError) as error:
                why = f"not started: {error}"[:80]
                found[name] = {check: why for checks in GROUPS.values() for check in checks}
    print("\n".join(tables(found)))
    if given.document:
        put_between(ROOT / "docs" / "trust.md", "probe", list(tables(found)))
    if given.json:
        write_text(given.json, json.dumps(found, indent=1) + "\n")


def _tiny(directory: Path) -> Path:
    from tests.tiny import save_tiny_checkpoint

    return save_tiny_checkpoint(directory)


if __name__ == "__main__":
    main()
