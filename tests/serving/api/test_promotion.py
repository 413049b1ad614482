"""Refined adapters promoted into a server that is answering, and rolled back."""

import concurrent.futures
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model

from fourfold.assistant.refine.deploy import ServerAdmin
from fourfold.assistant.refine.registry import SERVED_NAME, Registry
from fourfold.assistant.refine.steps import current_adapter, promote, roll_back
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import ADMIN, PLAIN, Live, bearer, data_uri, image_part, text_part
from tests.serving.engine.conversations import wait_for
from tests.tiny import tiny_model

QUESTIONS = (
    [image_part(data_uri("red")), text_part("what is it?")],
    [image_part(data_uri("blue")), text_part("[vqa] what colour is the car?")],
)


def train(registry: Registry, seed: int, layers: str = "(q_proj|v_proj|up_proj)", base: str = "base") -> str:
    model = get_peft_model(tiny_model(vocab_size=500), LoraConfig(r=4, target_modules=rf".*language_model.*{layers}"))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    built = registry.directory / f"built{seed}"
    model.save_pretrained(built)
    return registry.register(built, base=base, data="data", records=[]).id


@pytest.fixture
def refined(tmp_path: Path) -> tuple[CorrectionStore, Registry, list[str]]:
    store = CorrectionStore(tmp_path / "refine")
    registry = Registry(store.directory)
    return store, registry, [train(registry, seed) for seed in (1, 2)]


@pytest.fixture
def server(keyed: Live) -> Iterator[Live]:
    yield keyed
    ServerAdmin(f"{keyed.url}/v1", ADMIN).unload()


def answers(server: Live, model: str = SERVED_NAME) -> list[object]:
    """What the model says, to the last bit of its log-probabilities."""
    replies = [server.chat(q, headers=bearer(PLAIN), model=model, logprobs=True, max_tokens=8) for q in QUESTIONS]
    assert [reply.status_code for reply in replies] == [200, 200]
    return [
        [(token["token"], token["logprob"]) for token in reply.json()["choices"][0]["logprobs"]["content"]]
        for reply in replies
    ]


def test_rollback_restores_the_answers_bit_by_bit(
    server: Live, refined: tuple[CorrectionStore, Registry, list[str]]
) -> None:
    store, registry, (first, second) = refined
    there = ServerAdmin(f"{server.url}/v1", ADMIN)
    promote(store, registry, first, force=True, server=there)
    said = answers(server)
    promote(store, registry, second, force=True, server=there)
    assert answers(server) != said
    assert roll_back(store, registry, server=there).current == first
    assert answers(server) == said
    promote(store, registry, second, force=True, lora_scale=0.0, server=there)
    nothing = answers(server)
    assert roll_back(store, registry, server=there).current == first
    assert roll_back(store, registry, server=there).current is None
    assert server.chat(headers=bearer(PLAIN), model=SERVED_NAME).status_code == 404
    tokens = [[token for token, _ in answer] for answer in nothing]
    assert [[token for token, _ in answer] for answer in answers(server, "tiny")] == tokens


def test_requests_in_flight_finish_while_adapters_change(
    server: Live, tiny_engine: Engine, refined: tuple[CorrectionStore, Registry, list[str]]
) -> None:
    _, registry, revisions = refined
    there = ServerAdmin(f"{server.url}/v1", ADMIN)
    paths = [registry.path(revision) for revision in revisions]

    def ask(number: int) -> tuple[int, object]:
        fields = {"model": SERVED_NAME, "max_tokens": 60, "temperature": 0}
        reply = server.chat(QUESTIONS[number % 2], headers=bearer(PLAIN), **fields)
        return reply.status_code, reply.json().get("choices")

    allowed = []
    for path in paths:
        there.load(path)
        allowed.append([ask(number)[1] for number in range(2)])
    assert allowed[0] != allowed[1]
    stop = threading.Event()

    def keep_asking(number: int) -> list[tuple[int, object]]:
        said = []
        while not stop.is_set():
            said.append(ask(number))
        return said

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking, number) for number in range(4)]
        for turn in range(8):
            wait_for(lambda: tiny_engine.stats.running)
            there.load(paths[turn % 2])
        stop.set()
        said = [future.result() for future in asking]
    assert all(codes == 200 for answered in said for codes, _ in answered)
    for number, answered in enumerate(said):  # each is one adapter's answer, none a mixture of two
        possible = [allowed[0][number % 2], allowed[1][number % 2]]
        assert all(choices in possible for _, choices in answered)


def test_an_adapter_that_does_not_fit_changes_nothing(
    server: Live, refined: tuple[CorrectionStore, Registry, list[str]]
) -> None:
    store, registry, (first, _) = refined
    there = ServerAdmin(f"{server.url}/v1", ADMIN)
    promote(store, registry, first, force=True, server=there)
    said, base = answers(server), answers(server, "tiny")
    wrong = train(registry, 5, "q_proj")
    config = registry.path(wrong) / "adapter_config.json"
    built = shutil.copytree(config.parent, registry.directory / "wrong")
    (built / config.name).chmod(0o644)
    (built / config.name).write_text(config.read_text().replace("q_proj", "k_proj"))
    wrong = registry.register(built, base="base", data="data", records=[]).id
    with pytest.raises(UserError, match="did not load the adapter: 400"):
        promote(store, registry, wrong, force=True, server=there)
    assert registry.state().current == first
    for model, before in (("tiny", base), (SERVED_NAME, said)):  # the base model first: nothing switches for it
        for now, then in zip(answers(server, model), before, strict=True):
            assert [token for token, _ in now] == [token for token, _ in then]
            # Not to the last bit: the prompt comes from the cache by now.
            assert [p for _, p in now] == pytest.approx([p for _, p in then], abs=1e-4)
    with pytest.raises(UserError, match="admin key"):
        promote(store, registry, first, force=True, server=ServerAdmin(there.endpoint, PLAIN))
    with pytest.raises(UserError, match="admin key"):
        ServerAdmin(there.endpoint).load(registry.path(first))
    with pytest.raises(UserError, match="does not answer"):
        ServerAdmin("http://127.0.0.1:9/v1", ADMIN).load(registry.path(first))
    roll_back(store, registry)


def test_the_current_adapter_belongs_to_its_checkpoint(
    refined: tuple[CorrectionStore, Registry, list[str]], tiny_checkpoint: Path
) -> None:
    from fourfold.assistant.checkpoints.fingerprint import model_fingerprint

    store, registry, (first, _) = refined
    assert current_adapter(registry, tiny_checkpoint) is None
    promote(store, registry, first, force=True)
    with pytest.raises(UserError, match="another checkpoint"):
        current_adapter(registry, tiny_checkpoint)
    roll_back(store, registry)
    fitting = train(registry, 7, base=model_fingerprint(tiny_checkpoint))
    promote(store, registry, fitting, force=True)
    assert current_adapter(registry, tiny_checkpoint) == registry.path(fitting)
    assert current_adapter(registry, tiny_checkpoint, 0.5) == registry.directory / "derived" / f"{fitting}@0.50"


def test_the_route_without_in_place_still_refuses_a_name_that_is_taken(
    server: Live, refined: tuple[CorrectionStore, Registry, list[str]]
) -> None:
    _, registry, (first, _) = refined
    body = {"lora_name": SERVED_NAME, "lora_path": str(registry.path(first))}
    codes = [
        httpx.post(f"{server.url}/v1/load_lora_adapter", json={**body, **extra}, headers=bearer(ADMIN)).status_code
        for extra in ({}, {}, {"load_inplace": False}, {"load_inplace": True}, {"load_inplace": "yes"})
    ]
    assert codes == [200, 400, 400, 200, 400]


def test_a_page_that_answers_everything_has_loaded_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(httpx, "post", lambda *_, **__: httpx.Response(200, text="<html>Welcome</html>"))
    with pytest.raises(UserError, match="did not load the adapter: 200 <html>Welcome"):
        ServerAdmin("http://127.0.0.1:9/v1").load(tmp_path)
