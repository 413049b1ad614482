"""POST /v1/decisions: asked by the `openai` package and LangChain, and what is refused."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai.decisions import Choice, Level, OpenAIDecisions, Predicate, Score
from openai.types.decision import Decision

from fourfold.assistant.checkpoints.calibration import Calibration
from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.serving.api.decisions import PROBABILITIES_HEADER, SOURCES_HEADER
from fourfold.serving.api.keys import collect_keys
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.decisions.decide import calibration_of
from fourfold.serving.engine.engine import Engine, Request
from fourfold.serving.looking import Looking
from fourfold.serving.looking.presence import combined
from tests.serving.api.live import Live, data_uri, live_server
from tests.serving.engine.conversations import wait_for
from tests.serving.looking.scripted import ScriptedDetector, ScriptedLibrary, finding
from tests.tiny import save_tiny_checkpoint

KEY = "client-key-0123456789"
IMAGE = {"type": "input_image", "image_url": data_uri("sienna")}  # which no other test has shown to this engine
SEEN: list[Any] = [{"role": "user", "content": [IMAGE]}]
DOG = {"type": "predicate", "instructions": "is there a dog?"}
COLOUR = {
    "type": "choice",
    "name": "colour",
    "instructions": [{"type": "input_text", "text": "what is the colour of the car?"}],
    "choices": [{"value": "red"}, {"value": "the lazy dog"}, {"value": True, "description": "it has one"}],
}
NUMBER = {"type": "score", "name": "n", "instructions": "how many?", "levels": [{"label": "0"}, {"label": "1"}]}


@pytest.fixture(scope="module")
def guarded(tiny_engine: Engine) -> Iterator[Live]:
    with live_server(tiny_engine, keys=collect_keys([KEY], None, {})) as server:
        yield server


@pytest.fixture(scope="module")
def client(guarded: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def post(server: Live, input: Any = SEEN, questions: Any = (DOG,), **fields: Any) -> httpx.Response:
    body = {"input": input, "questions": list(questions), **fields}
    return httpx.post(f"{server.url}/v1/decisions", json=body, timeout=60)


def test_openai(client: openai.OpenAI, tiny_engine: Engine) -> None:
    encoded = tiny_engine.stats.images_encoded
    seen: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": data_uri("plum")}]}]
    answer = client.decisions.create(model="tiny", input=seen, questions=[DOG, COLOUR, NUMBER])  # type: ignore[list-item]
    assert isinstance(answer, Decision) and answer.model == "tiny"
    dog, colour, number = answer.answers
    assert dog.type == "predicate" and dog.name is None and 0 < dog.probability < 1
    assert colour.type == "choice" and colour.name == "colour"
    assert [one.value for one in colour.probabilities] == ["red", "the lazy dog", True]
    shares = [one.probability for one in colour.probabilities]
    assert sum(shares) == pytest.approx(1) and colour.choice == colour.probabilities[shares.index(max(shares))].value
    entropy = -sum(share * math.log(share) for share in shares)
    assert colour.confidence == pytest.approx(1 - entropy / math.log(3))
    assert number.type == "score" and number.name == "n"
    assert [(one.value, one.label) for one in number.probabilities] == [(0, "0"), (1, "1")]
    assert number.score == pytest.approx(number.probabilities[1].probability)
    assert tiny_engine.stats.images_encoded == encoded + 1
    usage = answer.usage
    assert usage.output_tokens == 0 and usage.input_tokens == usage.total_tokens
    assert usage.input_tokens_details.cached_tokens == 0 < usage.input_tokens_details.cache_write_tokens
    again = client.decisions.create(model="tiny", input=seen, questions=[DOG, COLOUR, NUMBER])  # type: ignore[list-item]
    assert again.answers == answer.answers
    details = again.usage.input_tokens_details
    assert (details.cached_tokens, details.cache_write_tokens) == (usage.input_tokens_details.cache_write_tokens, 0)


def test_probabilities_are_those_of_the_ranking(client: openai.OpenAI, tiny_engine: Engine) -> None:
    answer = client.decisions.create(model="tiny", input="the car is red.", questions=[DOG]).answers[0]  # type: ignore[list-item]
    words = [{"type": "text", "text": "the car is red."}, {"type": "text", "text": "is there a dog?"}]
    yes, no = tiny_engine.score(Request([{"role": "user", "content": words}]), ["yes", "no"])
    assert answer.type == "predicate" and answer.probability == pytest.approx(1 / (1 + math.exp(no - yes)), abs=1e-4)


def test_async(guarded: Live) -> None:
    async def ask() -> list[Decision]:
        async with openai.AsyncOpenAI(base_url=f"{guarded.url}/v1", api_key=KEY, max_retries=0) as client:
            many: Any = [{**DOG, "instructions": f"is there {number}?"} for number in range(400)]
            one: Any = [{**DOG, "instructions": "is there 7?"}]
            asked = [client.decisions.create(model="tiny", input=SEEN, questions=q) for q in (many, one, one)]
            return await asyncio.gather(*asked)

    many, *alone = asyncio.run(ask())
    assert len(many.answers) == 400
    assert [one.answers[0] for one in alone] == [many.answers[7]] * 2


def test_langchain(guarded: Live) -> None:
    decisions = OpenAIDecisions(model="tiny", base_url=f"{guarded.url}/v1", api_key=KEY, max_retries=0)
    questions: Any = {
        "dog": Predicate(instructions="Is there a dog?"),
        "colour": Choice(instructions="Which colour?", choices={"red": None, "blue": "as the sky"}),
        "size": Score(instructions="How large?", levels=["small", Level(label="large", description="as a house")]),
        "blank": Predicate(instructions=" "),
    }
    block = {"type": "image", "base64": data_uri().partition(",")[2], "mime_type": "image/png"}
    states: list[Any] = [
        "the car is red.",
        HumanMessage([block, {"type": "text", "text": "this is the car."}]),
        [HumanMessage([block]), AIMessage("a car."), HumanMessage("and now?")],
        {"ticket": {"number": 7, "lines": ["a", "b"]}},
    ]
    asked: list[Any] = [{"input": state, "questions": questions} for state in states]
    answers = [decisions.invoke(one) for one in asked]
    for answer in answers:
        assert (*answer.predicates, *answer.choices, *answer.scores) == ("dog", "colour", "size")
        assert set(answer.refusals) == {"blank"} and answer.scores["size"].legend == {0: "small", 1: "large"}
        assert answer.usage.input_tokens and answer.request_id
    assert [one.answers for one in asyncio.run(decisions.abatch(asked))] == [one.answers for one in answers]


def test_input_of_every_kind(live: Live) -> None:
    messages = [
        {"role": "system", "content": [{"type": "input_text", "text": "hello"}]},
        {"role": "developer", "content": "be brief"},
        {"type": "message", "role": "user", "content": [IMAGE, {"type": "input_json", "data": [{"a": [1, None]}]}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": "yes", "phase": "final_answer"},
    ]
    compared = {"type": "predicate", "instructions": [{"type": "input_text", "text": "is this the same?"}, IMAGE]}
    answer = post(live, messages, [DOG, compared], prompt_cache_key="x", prompt_cache_options={"ttl": "30m"})
    assert answer.status_code == 200, answer.text
    assert [one["type"] for one in answer.json()["answers"]] == ["predicate", "predicate"]


def test_what_cannot_be_asked_is_refused_with_a_reason(live: Live) -> None:
    questions = [
        {**DOG, "name": "blank", "instructions": "  "},
        {**DOG, "name": "picture", "instructions": [IMAGE]},
        {**DOG, "name": "long", "instructions": "dog " * 3000},
        {**DOG, "name": "hopeless", "instructions": "d" * 100_000},
        {"type": "choice", "name": "same", "instructions": "?", "choices": [{"value": True}, {"value": "yes"}]},
        {"type": "choice", "name": "empty", "instructions": "?", "choices": [{"value": ""}, {"value": "yes"}]},
        {**DOG, "name": "good"},
    ]
    answers = {one["name"]: one for one in post(live, questions=questions).json()["answers"]}
    assert answers.pop("good")["type"] == "predicate"
    assert [one["type"] for one in answers.values()] == ["refusal"] * 6
    reasons = ("no words", "no words", "reads at most", "far longer", "read the same", "no tokens")
    for one, reason in zip(answers.values(), reasons, strict=True):
        assert reason in one["reason"]
    assert live.metric('fourfold_decisions_total{kind="refusal"}') >= 6


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"questions": []}, "questions", "must not be empty"),
        ({"questions": [DOG] * 401}, "questions", "at most 400"),
        ({"questions": [{**DOG, "name": "a"}, {**NUMBER, "name": "a"}]}, "questions", "same name"),
        ({"questions": [{**COLOUR, "choices": [{"value": "red"}]}]}, "questions.0.choices", "at least 2"),
        ({"questions": [{**COLOUR, "choices": [{"value": str(n)} for n in range(256)]}]}, "questions.0.choices", "255"),
        ({"questions": [{**COLOUR, "choices": [{"value": "a"}] * 2}]}, "questions.0", "two choices are the same"),
        ({"questions": [{**NUMBER, "levels": [{"label": "a"}] * 2}]}, "questions.0", "same label"),
        ({"questions": [{"type": "rank", "instructions": "?"}]}, "questions.0", "predicate"),
        ({"questions": [{"type": "predicate"}]}, "questions.0.instructions", ""),
        ({"input": []}, "input", "a list such as"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role", ""),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": ""}]}, "input.0", "tools"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input.0.content.0", ""),
        ({"input": "the dog " * 600}, "input", "reads at most"),
        ({"input": "x" * 10**6}, "input", "far longer"),
        ({"model": "gpt-6-luna"}, "model", "no such model"),
    ],
)
def test_a_wrong_request_is_told_what_to_change(live: Live, fields: Any, param: str | None, words: str) -> None:
    answer = post(live, **fields)
    error = answer.json()["error"]
    assert answer.status_code == (404 if param == "model" else 400), error
    assert words in error["message"] and (error["param"] or "") == (param or ""), error


@pytest.mark.parametrize(
    ("input", "questions", "param"),
    [
        (
            [{"role": "user", "content": [{**IMAGE, "image_url": "data:image/png;base64,AAAA"}]}],
            [DOG],
            "input.0.content.0",
        ),
        (SEEN, [{**DOG, "instructions": [IMAGE, {**IMAGE, "image_url": "nowhere"}]}], "questions.0.instructions.1"),
        (SEEN, [DOG, {**DOG, "instructions": [IMAGE] * 16}], "input"),
    ],
)
def test_images_of_input_and_questions_are_counted_together(live: Live, input: Any, questions: Any, param: str) -> None:
    answer = post(live, input, questions)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_nested_json_is_bounded(live: Live) -> None:
    deep: Any = {}
    for _ in range(40):
        deep = {"a": deep}
    for data in (deep, {"a": [0] * 10_001}, {"a": "x" * 300_000}):
        answer = post(live, [{"role": "user", "content": [{"type": "input_json", "data": data}]}])
        assert answer.status_code == 400 and "send less" in answer.json()["error"]["message"]


def test_keys_and_methods_hold(guarded: Live) -> None:
    assert post(guarded).status_code == 401
    assert httpx.get(f"{guarded.url}/v1/decisions", headers={"authorization": f"Bearer {KEY}"}).status_code == 405


def test_time_is_limited(tiny_engine: Engine) -> None:
    with live_server(tiny_engine, limits=ServerLimits(request_seconds=0.0)) as server:
        answers = post(server, questions=[DOG] * 3).json()["answers"]
    assert [one["type"] for one in answers] == ["predicate", "refusal", "refusal"]
    assert "time" in answers[1]["reason"]


def test_a_client_that_leaves_stops_its_questions(tiny_engine: Engine, live: Live) -> None:
    many = [{**DOG, "instructions": f"{'dog ' * 300}{number}?"} for number in range(400)]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{live.url}/v1/decisions", json={"input": SEEN, "questions": many}, timeout=0.4)
    wait_for(lambda: live.metric("fourfold_http_in_flight") <= 1, 3)
    before = post(live)
    assert before.status_code == 200


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_tiny_checkpoint(tmp_path_factory.mktemp("calibrated") / "tiny")
    Calibration(model_fingerprint(directory), {"predicate": 0.1, "choice": 0.1}).write(directory)
    return directory


def test_eyes_tell_whether_a_thing_is_there(tiny_engine: Engine) -> None:
    looking = Looking(tiny_engine, ScriptedLibrary({"dog": finding("dog", presence=0.99)}))  # type: ignore[arg-type]
    questions = [
        DOG,
        {**DOG, "instructions": "is there a dog in the water?"},
        {**DOG, "instructions": "is it red?"},
        COLOUR,
    ]
    with live_server(tiny_engine, looking=looking) as server:
        alone, seen = post(server, questions=questions), post(server, questions=questions, model="tiny+eyes")
        blind = post(server, "a text", questions, model="tiny+eyes")
    assert (alone.headers[SOURCES_HEADER], seen.headers[SOURCES_HEADER]) == ("model", "model, read-out + model")
    assert blind.headers[SOURCES_HEADER] == "model"
    before, after = alone.json()["answers"], seen.json()["answers"]
    assert [one["source"] for one in after[:3]] == ["read-out + model", "model", "model"]
    assert after[1:] == before[1:]
    assert after[0]["probability"] == pytest.approx(combined(0.99, before[0]["probability"]))


def test_the_detector_counts(tiny_engine: Engine) -> None:
    counter = ScriptedDetector({"dog": (0.9, 0.9), "person": (0.8,)})
    looking = Looking(tiny_engine, ScriptedLibrary({}), detector=counter)  # type: ignore[arg-type]
    many = {"type": "choice", "instructions": "how many dogs are there?", "choices": [{"value": v} for v in "0123"]}
    predicates = (
        "are there two dogs?",
        "is there more than one person?",
        "are there at least three dogs?",
        "there are fewer than 3 dogs",
        "are there two brown dogs?",
        "are there two zebras?",
    )
    questions = [*({**DOG, "instructions": words} for words in predicates), many, COLOUR]
    with live_server(tiny_engine, looking=looking) as server:
        alone, seen = post(server, questions=questions), post(server, questions=questions, model="tiny+eyes")
    assert (alone.headers[SOURCES_HEADER], seen.headers[SOURCES_HEADER]) == ("model", "detector, model")
    before, after = alone.json()["answers"], seen.json()["answers"]
    assert [one["source"] for one in after] == [*["detector"] * 4, *["model"] * 2, "detector", "model"]
    assert after[4:6] == before[4:6] and after[7] == before[7]
    two, people, three, fewer = (one["probability"] for one in after[:4])
    # Two boxes, each right with 0.9, and one more with 0.15 each time: two of two, or one of two and one more, ...
    more, right = [0.85 * 0.15**n for n in range(3)], [0.01, 0.18, 0.81]
    assert two == pytest.approx(sum(right[n] * more[2 - n] for n in range(3)))
    assert people == pytest.approx(1 - 0.2 * (more[0] + more[1]) - 0.8 * more[0])
    assert three == pytest.approx(1 - fewer) and two > 0.5 > three
    shares = {one["value"]: one["probability"] for one in after[6]["probabilities"]}
    assert after[6]["choice"] == "2" and sum(shares.values()) == pytest.approx(1) and shares["0"] < shares["1"]


class TestCalibration:
    """Temperatures change how sure an answer is, and not which; without them, or under an adapter, it is said."""

    def test_the_header_says_which(self, calibrated: Path, live: Live, adapter: Path) -> None:
        raw = post(live, questions=[DOG, COLOUR])
        assert raw.headers[PROBABILITIES_HEADER] == "raw"
        with Engine.load(calibrated, dtype="float32") as engine, live_server(engine) as server:
            fitted = post(server, questions=[DOG, COLOUR])
            assert fitted.headers[PROBABILITIES_HEADER] == "calibrated"
            assert post(server, questions=[DOG, NUMBER]).headers[PROBABILITIES_HEADER] == "raw"
            engine.load_adapter("changed", adapter)
            changed = post(server, model="changed")
            assert changed.headers[PROBABILITIES_HEADER] == "raw" and changed.json()["model"] == "changed"
            assert changed.json()["answers"] != raw.json()["answers"][:1]
            engine.unload_adapter("changed")
            assert post(server, model="changed").status_code == 404
        before, after = (one.json()["answers"] for one in (raw, fitted))
        odds = [math.log(p / (1 - p)) for p in (before[0]["probability"], after[0]["probability"])]
        assert odds[1] == pytest.approx(10 * odds[0], rel=1e-3)
        assert after[1]["choice"] == before[1]["choice"] and after[1]["confidence"] > before[1]["confidence"]

    def test_what_belongs_to_another_model_is_not_used(
        self, calibrated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        other = save_tiny_checkpoint(tmp_path / "other", seed=1)
        with Engine.load(other, dtype="float32") as engine:
            assert calibration_of(engine, None) is None and not caplog.text
            Calibration(model_fingerprint(calibrated), {"predicate": 2.0}).write(other)
            assert calibration_of(engine, None) is None and "another model" in caplog.text
            (other / "calibration.json").write_text("{}")
            assert calibration_of(engine, None) is None and "is no calibration" in caplog.text
