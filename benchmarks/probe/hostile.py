"""What attackers send. A plain demand behind each: refuse it in words, ask nobody, and answer the next one."""

import base64
import io
import json
import time
import zlib
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from benchmarks.probe.asked import CHAT, HELLO, Asked, Check, refused

PATIENCE = 20.0
"""Seconds within which a refusal has to come."""


def _uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def bomb(side: int) -> bytes:
    """A PNG of side x side white pixels of one bit each, packed as tightly as PNG can."""
    packer = zlib.compressobj(9)
    row = b"\0" + b"\xff" * ((side + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    size = side.to_bytes(4, "big") * 2
    chunks = _chunk(b"IHDR", size + bytes([1, 0, 0, 0, 0])) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _truncated() -> bytes:
    """Half of a JPEG of noise: its end would hold half of the pixels."""
    buffer = io.BytesIO()
    Image.effect_noise((256, 256), 80).save(buffer, "JPEG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


def _trap(asked: Asked, host: str) -> str:
    """The trap's address by another name for this machine."""
    return f"http://{host}:{urlsplit(asked.trap).port}/trap.png"


def _elsewhere(asked: Asked, path: str, body: Any) -> bool:
    """A picture's address in another API's form; nobody is asked for it. A server without that API is safe as well."""
    before = len(asked.trapped)
    return refused(asked.post(path, **body), absent=True) and len(asked.trapped) == before


def _responses_trap(asked: Asked) -> bool:
    image = {"type": "input_image", "image_url": _trap(asked, "127.0.0.1"), "detail": "auto"}
    body = {"model": asked.model, "input": [{"role": "user", "content": [image]}]}
    return _elsewhere(asked, "/v1/responses", body)


def _messages_trap(asked: Asked) -> bool:
    image = {"type": "image", "source": {"type": "url", "url": _trap(asked, "127.0.0.1")}}
    body = {"model": asked.model, "max_tokens": 4, "messages": [{"role": "user", "content": [image]}]}
    return _elsewhere(asked, "/v1/messages", body)


def _schema_trap(asked: Asked) -> bool:
    """A schema's reference to an address: whatever is answered, nobody is asked."""
    before = len(asked.trapped)
    schema = {"type": "object", "properties": {"a": {"$ref": asked.trap + "/schema.json"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return asked.post(response_format=form).status_code < 500 and len(asked.trapped) == before


def _head(length: int, more: str = "") -> str:
    kind = f"Content-Type: application/json\r\nContent-Length: {length}\r\n{more}"
    return f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n"


def _oversized(asked: Asked) -> bool:
    """300 MB in a field that changes nothing, told beforehand and sent for as long as the server listens."""
    start = json.dumps({"model": asked.model, "messages": HELLO, "max_tokens": 2})[:-1] + ', "user": "'
    block, end = b"a" * 2**20, b'"}'
    length = len(start) + 300 * len(block) + len(end)
    with asked.connection() as connection:
        connection.settimeout(3 * PATIENCE)
        try:
            connection.sendall((_head(length) + start).encode())
            for _ in range(300):
                connection.sendall(block)
            connection.sendall(end)
        except ConnectionError:
            pass  # it has heard enough
        try:
            said = connection.recv(65536)
        except ConnectionError:
            return True
    return b" 4" in said.partition(b"\r\n")[0][8:11]


def _deep(asked: Asked) -> bool:
    nested = "[" * 100_000 + "]" * 100_000
    return refused(asked.raw('{"model": "x", "messages": ' + nested + "}"))


def _deep_schema(asked: Asked) -> bool:
    """Objects in objects: refused or answered."""
    schema: Any = {"type": "string"}
    for _ in range(400):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return asked.post(response_format=form).status_code < 500


def _pattern_bomb(asked: Asked) -> bool:
    """Ten million states for an automaton that writes them all out."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^((a{1,100}){1,300}b?){1,300}$"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**schema, "required": ["a"]}}}
    began = time.monotonic()
    answer = asked.post(response_format=form)
    return answer.status_code < 500 and time.monotonic() - began < PATIENCE


def _wrong_parts(asked: Asked) -> bool:
    """By one complaint, not one for each."""
    body = json.dumps({"model": asked.model, "messages": [{"role": "user", "content": [1] * 100_000}]})
    answer = asked.raw(body)
    return refused(answer) and len(answer.content) < 10_000


def _wrong_types(asked: Asked) -> bool:
    wrong: list[Any] = ["hello", 5, None, {"role": "user"}, [None], [["user"]], [{"role": "user", "content": {"a": 1}}]]
    fields = {"max_tokens": "ten", "temperature": [], "stream": "perhaps", "stop": {"a": 1}, "tools": "all"}
    refusals = [asked.refuses(messages=messages) for messages in wrong]
    return all(refusals) and all(asked.refuses(**{name: value}) for name, value in fields.items())


def _number(asked: Asked, field: str, number: str) -> bool:
    body = json.dumps({"model": asked.model, "messages": HELLO, "max_tokens": 4, field: "NUMBER"})
    return refused(asked.raw(body.replace('"NUMBER"', number)))


def _huge(asked: Asked) -> bool:
    """A whole number of 400 digits: refused or taken for as many as there may be."""
    body = json.dumps({"model": asked.model, "messages": HELLO, "max_tokens": "NUMBER", "stop": ["e", "a", "o", "i"]})
    return asked.raw(body.replace('"NUMBER"', "1" + "0" * 400)).status_code < 500


def _surrogate(asked: Asked) -> bool:
    """Half a character, as JavaScript cuts one off."""
    body = json.dumps({"model": asked.model, "messages": [{"role": "user", "content": "half \ud83d"}], "max_tokens": 2})
    answer = asked.raw(body)
    return answer.status_code == 200 or refused(answer)


def _scripts(asked: Asked) -> bool:
    """Emoji of several code points, marks without a letter, right to left, and a zero byte."""
    words = "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u0301\u0301 \u05e9\u05dc\u05d5\u05dd \u202e \x00 \ufeff \ue000"
    return bool(asked.text([{"role": "user", "content": words}]))


def _control_tokens(asked: Asked) -> bool:
    """Somebody types the marks between turns: they are read as letters, or refused, but open no turn."""
    mark = next((one for one in ("<|im_end|>", "</s>") if asked.tokenizer.token_to_id(one) is not None), "<|im_end|>")
    answer = asked.post(messages=[{"role": "user", "content": f"x{mark * 10}"}])
    if answer.status_code != 200:
        return refused(answer)
    return bool(answer.json()["usage"]["prompt_tokens"] > asked.prompt_tokens([{"role": "user", "content": "x"}]) + 20)


def _typed_picture(asked: Asked) -> bool:
    """Somebody types the mark of a picture without one."""
    answer = asked.post(messages=[{"role": "user", "content": "<image><ImageHere>what is <|image|>?"}])
    return answer.status_code == 200 or refused(answer)


def _template(asked: Asked, **fields: Any) -> bool:
    """A template of the client's own is not run: refused, or the prompt is as long as without it."""
    answer = asked.post(**fields)
    if answer.status_code != 200:
        return refused(answer)
    return bool(answer.json()["usage"]["prompt_tokens"] == asked.prompt_tokens(HELLO))


def _too_many(asked: Asked) -> bool:
    """Refused as wrong, or because there is no room for it."""
    answer = asked.post(n=1000, temperature=1)
    return answer.status_code == 503 or refused(answer)


def _adapter(asked: Asked) -> bool:
    """Of a path that the client chose, without any key."""
    named = {"lora_name": "../../../tmp/x", "lora_path": "/etc"}
    return 400 <= asked.post("/v1/load_lora_adapter", **named).status_code < 500


def _smuggled(asked: Asked) -> bool:
    """Two lengths for one body, and a second request where they differ: one answer, or none (RFC 9112, 6.1)."""
    hidden = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    chunked = b"0\r\n\r\n" + hidden
    head = _head(len(chunked), "Transfer-Encoding: chunked\r\n")
    return asked.exchange(head.encode() + chunked).count(b"HTTP/1.1 ") <= 1


def _two_lengths(asked: Asked) -> bool:
    return b" 400 " in asked.exchange(_head(2, "Content-Length: 40\r\n").encode() + b"{}").partition(b"\r\n")[0]


def _long_header(asked: Asked) -> bool:
    """16 megabytes of it are not waited for: 4xx, or the connection ends."""
    said = asked.exchange(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 2**24 + b"\r\n\r\n")
    return not said or b" 4" in said.partition(b"\r\n")[0][8:11]


def _answer_split(asked: Asked) -> bool:
    """An id with the end of a line in it does not become a header of the answer."""
    said = asked.exchange(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\rSet-Cookie: b=c\r\n\r\n")
    return b"set-cookie" not in said.lower().replace(b"x-request-id: a\rset-cookie", b"")


def _slow(asked: Asked) -> bool:
    """Sixty requests that stop in the middle: the next one is answered."""
    connections = [asked.connection() for _ in range(60)]
    try:
        for connection in connections:
            connection.sendall(_head(1000).encode() + b'{"model":')
        return asked.answers()
    finally:
        for connection in connections:
            connection.close()


def _hang_ups(asked: Asked) -> bool:
    """Twenty clients leave after the first piece of a long answer: the next one does not wait for all of them."""
    body = {"model": asked.model, "messages": HELLO, "max_tokens": 200, "temperature": 0, "stream": True}
    for _ in range(20):
        with asked.http.stream("POST", CHAT, json=body) as stream:
            stream.raise_for_status()
            next(stream.iter_bytes())
    began = time.monotonic()
    return asked.answers() and time.monotonic() - began < PATIENCE


def _cors(asked: Asked) -> bool:
    """A page that nobody listed is told nothing."""
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    return "access-control-allow-origin" not in asked.http.options(CHAT, headers=headers).headers


def _plain_form(asked: Asked) -> bool:
    """What a browser sends for any page without asking first: JSON that is said to be plain text."""
    body = json.dumps({"model": asked.model, "messages": HELLO, "max_tokens": 2})
    answer = asked.raw(body, content_type="text/plain", origin="https://evil.example")
    return 400 <= answer.status_code < 500


def _rebinding(asked: Asked) -> bool:
    """A page whose own name points here: its host is not this machine's."""
    return 400 <= asked.get("/health", host="evil.example").status_code < 500


def _in_time(asked: Asked, url: str) -> bool:
    began = time.monotonic()
    return asked.refuses_picture(url) and time.monotonic() - began < PATIENCE


CHECKS: dict[str, Check] = {
    "picture of a loopback address": lambda asked: _in_time(asked, _trap(asked, "127.0.0.1")),
    "… written `localhost`": lambda asked: _in_time(asked, _trap(asked, "localhost")),
    "… written as one number": lambda asked: _in_time(asked, _trap(asked, "2130706433")),
    "… in IPv6's form": lambda asked: _in_time(asked, _trap(asked, "[::ffff:127.0.0.1]")),
    "… in a response": _responses_trap,
    "… in Anthropic's form": _messages_trap,
    "… in a schema's `$ref`: not fetched": _schema_trap,
    "picture of a cloud's metadata (169.254.169.254)": lambda asked: _in_time(
        asked, "http://169.254.169.254/latest/meta-data/x.png"
    ),
    "picture in a local file (`file://`)": lambda asked: _in_time(asked, "file:///etc/hostname"),
    "picture as a bare path": lambda asked: _in_time(asked, "/etc/hostname"),
    "picture by another scheme": lambda asked: _in_time(asked, "gopher://127.0.0.1/x"),
    "picture bomb, 900 megapixels in 110 kB": lambda asked: _in_time(asked, _uri(bomb(30_000))),
    "half a JPEG": lambda asked: asked.refuses_picture(_uri(_truncated(), "image/jpeg")),
    "a web page as a picture": lambda asked: asked.refuses_picture(_uri(b"<html>no picture</html>", "image/png")),
    "broken base64": lambda asked: asked.refuses_picture("data:image/png;base64,####"),
    "body of 300 MB": _oversized,
    "100,000 lists in each other": _deep,
    "100,000 wrong parts, one complaint": _wrong_parts,
    "wrong types, twelve of them": _wrong_types,
    "NaN as a temperature": lambda asked: _number(asked, "temperature", "NaN"),
    "Infinity as a penalty": lambda asked: _number(asked, "presence_penalty", "Infinity"),
    "a number of 400 digits: no fault": _huge,
    "a body that is not UTF-8": lambda asked: refused(asked.raw(b'{"model": "\xff\xfe"}')),
    "a body cut off in the middle": lambda asked: refused(asked.raw('{"model": "x", "messages": [{')),
    "half a character: no fault": _surrogate,
    "rare characters are answered": _scripts,
    "typed marks of turns open none": _control_tokens,
    "typed marks of pictures: no fault": _typed_picture,
    "a client's own chat template is not run": lambda asked: _template(asked, chat_template="{{ 'a b c ' * 50 }}"),
    "… nor one among its variables": lambda asked: _template(
        asked, chat_template_kwargs={"chat_template": "{{ 'a b c ' * 50 }}"}
    ),
    "a token that there is not, in `logit_bias`": lambda asked: asked.refuses(logit_bias={"999999999": 1}),
    "a thousand answers at once (`n`)": _too_many,
    "schema of 400 levels: no fault": _deep_schema,
    "a pattern of millions of states, in time": _pattern_bomb,
    "adapter from a path of the client's choice": _adapter,
    "model's name as a path": lambda asked: refused(asked.post(model="../../../etc/passwd"), absent=True),
    "request smuggling (length and chunks)": _smuggled,
    "two lengths": _two_lengths,
    "header of 16 MB": _long_header,
    "header into the answer": _answer_split,
    "sixty half requests: the next is answered": _slow,
    "twenty hang up: the next is answered": _hang_ups,
    "pages of other origins are told nothing": _cors,
    "pages of other origins cannot post": _plain_form,
    "pages that rename this machine (DNS rebinding)": _rebinding,
}


def still_there(asked: Asked) -> bool:
    """Whether the server takes requests after all that."""
    try:
        return httpx.get(f"{asked.url}/health", timeout=PATIENCE).status_code == 200
    except httpx.HTTPError:
        return False
