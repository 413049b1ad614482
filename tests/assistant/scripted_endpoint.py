"""A small real HTTP server that speaks chat completions and answers from a script."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ScriptedEndpoint:
    """Answers come from `script`, a list used up in order or a function of the request's body.

    A string is an answer, an int is the HTTP status of an error, `(int, words)` one with its message, and `(text, n)`
    breaks the connection off after n characters of a stream. Streams come in pieces of `piece` characters, `pause`
    seconds apart, and end for `reason`.

    Attributes:
        requests: the bodies received so far.
        hung_up: set when a client left in the middle of a stream.
    """

    def __init__(self, script, piece=3, pause=0.0, reason="stop", port=0):
        self.script = script
        self.piece, self.pause, self.reason = piece, pause, reason
        self.requests = []
        self.keys = []
        self.hung_up = threading.Event()
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                self.reply(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.keys.append(self.headers.get("Authorization"))
                    answer = outer.script(body) if callable(outer.script) else outer.script.pop(0)
                if isinstance(answer, tuple) and isinstance(answer[0], int):
                    self.reply(answer[0], {"error": {"message": answer[1], "type": "x", "code": None}})
                elif isinstance(answer, int):
                    self.reply(answer, {"error": {"message": "scripted failure", "type": "x", "code": None}})
                elif body.get("stream"):
                    self.stream(*(answer if isinstance(answer, tuple) else (answer, None)))
                else:
                    message = {"role": "assistant", "content": answer}
                    choice = {"index": 0, "message": message, "finish_reason": "stop"}
                    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                    head = {"id": "c", "object": "chat.completion", "created": 0, "model": "scripted"}
                    self.reply(200, {**head, "choices": [choice], "usage": usage})

            def reply(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def stream(self, text, stop_after):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                head = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "scripted"}
                shown = text if stop_after is None else text[:stop_after]
                pieces = [{"content": shown[i : i + outer.piece]} for i in range(0, len(shown), outer.piece)]
                deltas = [({"role": "assistant", "content": ""}, None), *((piece, None) for piece in pieces)]
                if stop_after is None:
                    deltas.append(({}, outer.reason))
                try:
                    for delta, finish in deltas:
                        event = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
                        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                        self.wfile.flush()
                        time.sleep(outer.pause)
                    if stop_after is None:
                        self.wfile.write(b"data: [DONE]\n\n")
                    else:
                        self.wfile.write(b'data: {"error": {"message": "scripted failure in the stream"}}\n\n')
                except OSError:
                    outer.hung_up.set()

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class Raw:
    """An endpoint that answers every question with the same bytes."""

    def __init__(self, body: bytes, kind: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
