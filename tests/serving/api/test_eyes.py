"""The model with eyes over HTTP: its name, its claims, its map of a picture, and what is shown to it once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from fourfold.assistant.grounding import Box, format_box, parse
from fourfold.assistant.images import Attachment
from fourfold.assistant.readouts import ReadoutLibrary
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.serving.api.keys import collect_keys
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.engine import Engine
from fourfold.serving.looking import Looking
from fourfold.serving.looking.concepts import ConceptReadouts
from tests.serving.api.live import ADMIN, PLAIN, Live, chunks, data_uri, image_part, live_server, text_part
from tests.serving.looking.learnt import scene

GREEN = "lime"


def uri(seed: int, *things: str) -> tuple[str, dict[str, Box]]:
    picture, boxes = scene(seed, *things)
    return Attachment.from_image(picture).data_uri, boxes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ConceptStore:
    return ConceptStore(tmp_path_factory.mktemp("eyes") / "refine")


@pytest.fixture(scope="module")
def seeing(
    tiny_engine: Engine, learnt: ReadoutLibrary, store: ConceptStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A server with eyes, an ordinary key and an admin's."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"{PLAIN} name=alice\n{ADMIN} name=root admin\n")
    looking = Looking(tiny_engine, learnt, ConceptReadouts(store, tiny_engine, learnt))
    with live_server(tiny_engine, keys=collect_keys([], file, {}), looking=looking) as server:
        yield server


def as_user(key: str = PLAIN) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def call(server: Live, method: str, path: str, body: Any = None, key: str = ADMIN) -> httpx.Response:
    return httpx.request(method, f"{server.url}{path}", json=body, headers=as_user(key), timeout=60)


def test_both_names_are_offered(seeing: Live) -> None:
    cards = call(seeing, "GET", "/v1/models", key=PLAIN).json()["data"]
    assert [card["id"] for card in cards] == ["tiny", "tiny+eyes"]
    card = call(seeing, "GET", "/v1/models/tiny+eyes", key=PLAIN).json()
    assert (card["parent"], card["max_model_len"]) == ("tiny", cards[0]["max_model_len"])
    assert call(seeing, "GET", "/v1/models/other+eyes", key=PLAIN).status_code == 404


def test_the_list_of_models_says_what_each_is_good_at(
    tiny_engine: Engine, learnt: ReadoutLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, eyes = ({"line": line, "tasks": {}} for line in ("Guesses.", "Sees."))
    (tmp_path / "card.json").write_text(json.dumps({"alone": alone, "eyes": eyes}))
    monkeypatch.setattr(tiny_engine, "checkpoint", tmp_path)
    with live_server(tiny_engine, looking=Looking(tiny_engine, learnt)) as server:
        cards = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert [card["card"] for card in cards] == [alone, eyes]
        assert httpx.get(f"{server.url}/v1/models/tiny+eyes").json()["card"] == eyes


def test_without_read_outs_there_are_no_eyes(live: Live) -> None:
    assert [card["id"] for card in httpx.get(f"{live.url}/v1/models").json()["data"]] == ["tiny"]
    refused = live.chat("hello", model="tiny+eyes")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert httpx.post(f"{live.url}/v1/eyes", json={}).status_code == 404


def test_an_answer_has_its_claims(seeing: Live) -> None:
    picture, boxes = uri(800, "dog", "cat")
    asked = [image_part(picture), text_part("where is the dog?")]
    answer = seeing.chat(asked, model="tiny+eyes", max_tokens=60, headers=as_user()).json()
    assert answer["model"] == "tiny+eyes"
    message = answer["choices"][0]["message"]
    [claim] = message["claims"]
    assert set(claim) == {"phrase", "box", "confidence", "source"}
    assert (claim["phrase"], claim["source"]) == ("dog", "read-out")
    assert Box(*claim["box"]).iou(boxes["dog"]) >= 0.5 and 0 < claim["confidence"] <= 1
    [written] = parse(message["content"]).boxes
    assert written.iou(Box(*claim["box"])) > 0.9
    plain = seeing.chat(asked, model="tiny", max_tokens=60, headers=as_user()).json()
    assert "claims" not in plain["choices"][0]["message"]
    assert plain["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert answer["usage"]["total_tokens"] == sum(
        answer["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    )


def test_a_stream_says_the_same(seeing: Live) -> None:
    picture, _ = uri(801, "dog", "cat")
    asked = [image_part(picture), text_part("[refer] where is the cat?")]
    whole = seeing.chat(asked, model="tiny+eyes", max_tokens=60, headers=as_user()).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    pieces = chunks(seeing.chat(asked, model="tiny+eyes", max_tokens=60, headers=as_user(), **options))
    deltas = [chunk["choices"][0]["delta"] for chunk in pieces if chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert [delta["claims"] for delta in deltas if "claims" in delta] == [whole["choices"][0]["message"]["claims"]]
    assert "claims" in deltas[-1]
    assert pieces[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_an_ordinary_client_gets_them(seeing: Live) -> None:
    client = openai.OpenAI(base_url=f"{seeing.url}/v1", api_key=PLAIN)
    picture, _ = uri(802, "dog")
    messages = [{"role": "user", "content": [image_part(picture), text_part("is there a dog in the image?")]}]
    answer = client.chat.completions.create(model="tiny+eyes", messages=messages)  # type: ignore[arg-type]
    message = answer.choices[0].message
    assert (
        message.content == "Yes, there is a dog."
        and (message.model_extra or {})["claims"][0]["source"] == "read-out + model"
    )


def test_several_choices_have_one_look(seeing: Live) -> None:
    picture, _ = uri(803, "dog", "cat")
    asked = [image_part(picture), text_part("[refer] where is the cat?")]
    answer = seeing.chat(asked, model="tiny+eyes", n=2, max_tokens=60, headers=as_user()).json()
    first, second = (choice["message"] for choice in answer["choices"])
    assert first == second


def test_a_map_of_the_picture(seeing: Live) -> None:
    picture, boxes = uri(804, "dog", "cat")
    seen = call(seeing, "POST", "/v1/eyes", {"image": picture, "phrase": "the dog"}, PLAIN).json()
    assert (seen["phrase"], seen["noun"], seen["source"]) == ("dog", "dog", "read-out")
    assert Box(*seen["boxes"][0]["box"]).iou(boxes["dog"]) >= 0.5
    assert 0 < seen["boxes"][0]["confidence"] <= 1 and seen["presence"] > 0.5
    values = seen["map"]["values"]
    assert (seen["map"]["rows"], seen["map"]["columns"], len(values)) == (4, 4, 16)
    assert (min(values), max(values)) == (0, 1)
    place = values.index(1)
    x, y = (place % 4 + 0.5) / 4, (place // 4 + 0.5) / 4
    assert boxes["dog"].x1 < x < boxes["dog"].x2 and boxes["dog"].y1 < y < boxes["dog"].y2
    unknown = call(seeing, "POST", "/v1/eyes", {"image": picture, "phrase": "zebra"}, PLAIN).json()
    assert unknown == {
        "phrase": "zebra", "noun": None, "boxes": [], "presence": None, "source": None, "map": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"image": data_uri(), "phrase": ""}, 400, "phrase"),
        ({"image": data_uri(), "phrase": "dog" * 5000}, 400, "phrase"),
        ({"image": data_uri()}, 400, "phrase"),
        ({"image": "data:image/png;base64,AAAA", "phrase": "dog"}, 400, None),
        ({"image": "https://localhost/dog.png", "phrase": "dog"}, 400, None),
        ({"image": data_uri(size=(1, 1)), "phrase": "dog"}, 200, None),
    ],
)
def test_what_cannot_be_looked_at(seeing: Live, body: dict[str, Any], status: int, param: str | None) -> None:
    response = call(seeing, "POST", "/v1/eyes", body, PLAIN)
    assert response.status_code == status
    if status != 200:
        assert "\n" not in response.json()["error"]["message"]
        assert param is None or response.json()["error"]["param"] == param


def test_shown_over_http(seeing: Live, store: ConceptStore) -> None:
    taught, boxes = uri(810, GREEN)
    body = {"name": "Rex", "image": taught, "boxes": [list(boxes[GREEN].as_tuple())]}
    shown = call(seeing, "POST", "/v1/concepts", body).json()
    assert (shown["name"], shown["positive"], shown["consent"]) == ("Rex", True, True)
    picture, boxes = uri(811, GREEN, "cat")
    asked = [image_part(picture), text_part("where is Rex?")]
    answer = seeing.chat(asked, model="tiny+eyes", max_tokens=60, headers=as_user()).json()
    [claim] = answer["choices"][0]["message"]["claims"]
    assert claim["source"] == "shown once" and Box(*claim["box"]).iou(boxes[GREEN]) > 0.3
    [concept] = call(seeing, "GET", "/v1/concepts").json()["data"]
    assert concept["name"] == "Rex" and [example["id"] for example in concept["examples"]] == [shown["id"]]
    negative = {"name": "rex", "image": picture, "positive": False}
    refused = call(seeing, "POST", "/v1/concepts", negative).json()
    lines = call(seeing, "GET", "/v1/concepts/export").text
    assert [json.loads(line)["name"] for line in lines.splitlines()] == ["Rex", "rex"]
    assert call(seeing, "DELETE", f"/v1/concepts/Rex/examples/{refused['id']}").json()["deleted"] == 1
    renamed = call(seeing, "PATCH", "/v1/concepts/REX", {"name": "our bracket"}).json()
    assert (renamed["name"], len(renamed["examples"])) == ("our bracket", 1)
    assert call(seeing, "DELETE", "/v1/concepts/our%20bracket").json() == {"name": "our bracket", "deleted": 1}
    assert store.list() == []
    answer = seeing.chat(asked, model="tiny+eyes", max_tokens=4, headers=as_user()).json()
    assert all(claim["source"] == "model" for claim in answer["choices"][0]["message"]["claims"])
    imported = httpx.post(f"{seeing.url}/v1/concepts/import", content=lines, headers=as_user(ADMIN), timeout=60)
    assert imported.json() == {"added": 2, "known": 0}
    again = httpx.post(f"{seeing.url}/v1/concepts/import", content=lines, headers=as_user(ADMIN), timeout=60)
    assert again.json() == {"added": 0, "known": 2}
    store.forget("rex")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "", {"name": "Rex", "image": data_uri(), "boxes": []}, 400),
        ("POST", "", {"name": "Rex", "image": data_uri(), "boxes": [[0.5, 0.5, 0.5, 0.5]]}, 400),
        ("POST", "", {"name": "Rex", "image": data_uri(), "boxes": [[0, 0, 2, 1]]}, 400),
        ("POST", "", {"name": "Rex", "image": data_uri(), "boxes": [[0, 0, 1]]}, 400),
        ("POST", "", {"name": "R" * 10_000, "image": data_uri(), "boxes": [[0, 0, 1, 1]]}, 400),
        ("POST", "", {"name": "Rex", "image": "/etc/passwd", "boxes": [[0, 0, 1, 1]]}, 400),
        ("POST", "", {"name": "Rex", "boxes": [[0, 0, 1, 1]]}, 400),
        ("PATCH", "/nobody", {"name": "Rex"}, 404),
        ("PATCH", "/nobody", {}, 400),
        ("DELETE", "/nobody", None, 404),
        ("DELETE", "/nobody/examples/none", None, 404),
        ("POST", "/import", {"name": "Rex"}, 400),
        ("GET", "/nobody", None, 405),
    ],
)
def test_what_shows_nothing_is_refused(
    seeing: Live, store: ConceptStore, method: str, path: str, body: Any, status: int
) -> None:
    response = call(seeing, method, f"/v1/concepts{path}", body)
    assert response.status_code == status
    assert "\n" not in response.json()["error"]["message"]
    assert store.list() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", ""), ("GET", "/export"), ("POST", "/import"), ("PATCH", "/Rex"), ("DELETE", "/Rex")],
)
def test_concepts_are_their_owners(seeing: Live, method: str, path: str) -> None:
    refused = call(seeing, method, f"/v1/concepts{path}", {"name": "Rex"} if method != "GET" else None, PLAIN)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_key_required")
    assert call(seeing, method, f"/v1/concepts{path}", key="wrong").status_code == 401


def test_a_body_of_a_patch_is_bounded_too(tiny_engine: Engine, learnt: ReadoutLibrary, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{ADMIN} name=root admin\n")
    looking = Looking(tiny_engine, learnt, ConceptReadouts(ConceptStore(tmp_path), tiny_engine, learnt))
    limits = ServerLimits(body_bytes=1000)
    with live_server(tiny_engine, keys=collect_keys([], file, {}), limits=limits, looking=looking) as server:
        assert call(server, "PATCH", "/v1/concepts/Rex", {"name": "x" * 2000}).status_code == 413
        assert call(server, "PATCH", "/v1/concepts/Rex", {"name": "Max"}).status_code == 404


def test_memory_goes_before_eyes(tiny_engine: Engine, learnt: ReadoutLibrary, tmp_path: Path) -> None:
    from fourfold.assistant.refine.memory import CorrectionMemory
    from fourfold.assistant.refine.record import Correction
    from fourfold.assistant.refine.store import CorrectionStore

    corrections = CorrectionStore(tmp_path)
    content = [{"type": "image"}, {"type": "text", "text": "[refer] where is the dog?"}]
    right = format_box(Box(0.1, 0.2, 0.3, 0.4))
    record = Correction(
        messages=({"role": "user", "content": content},), rejected="{<0><0><99><99>}", chosen=right, consent=True
    )
    picture = Image.new("RGB", (64, 48), "red")
    corrections.add(record, Attachment.from_image(picture))
    with live_server(tiny_engine, memory=CorrectionMemory(corrections), looking=Looking(tiny_engine, learnt)) as server:
        asked = [image_part(Attachment.from_image(picture).data_uri), text_part("[refer] where is the dog?")]
        answer = server.chat(asked, model="tiny+eyes", max_tokens=60).json()
        assert answer["choices"][0]["message"]["content"] == right
