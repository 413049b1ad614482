"""Samplers as clients ask for them; what each does to probabilities: tests/serving/engine/sampling/test_sampling.py."""

from typing import Any

import pytest

from fourfold.serving.engine.engine import Engine, Request, Sampling
from tests.serving.api.live import HOT, Live


def choice(live: Live, **fields: Any) -> dict[str, Any]:
    answer = live.chat(**{"max_tokens": 12, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def text(live: Live, **fields: Any) -> str:
    return choice(live, **fields)["message"]["content"]


def test_filters_that_leave_one_token_are_greedy(live: Live) -> None:
    greedy = text(live)
    hot = {"temperature": 2.0, "seed": 1}
    assert text(live, **hot) != greedy
    for fields in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-9}, {"top_k": 1.0, "seed": 2.0}):
        assert text(live, **{**hot, **fields}) == greedy
    for nothing in ({"top_k": -1}, {"top_k": 0}, {"min_p": 0}, {"logit_bias": {}}, {"bad_words": []}):
        assert text(live, **hot, **nothing) == text(live, **hot)


def test_bias_and_penalties(live: Live, tiny_engine: Engine) -> None:
    ids = tiny_engine.tokenize("dog", add_special_tokens=False)
    word = tiny_engine.detokenize(ids[:1])
    assert text(live, logit_bias={str(ids[0]): 100}) == word * 12
    assert text(live, bad_words=[word], logit_bias={str(ids[0]): 100}).count(word) == 0
    plain = text(live, **HOT)
    for name, value in (("presence_penalty", 2), ("frequency_penalty", -2), ("repetition_penalty", 1.9)):
        asked = Request([{"role": "user", "content": "hello"}], Sampling(max_tokens=12, **HOT, **{name: value}))
        assert text(live, **HOT, **{name: value}) == tiny_engine.generate([asked])[0].text != plain


def test_log_probabilities_stay_the_models_own(live: Live, tiny_engine: Engine) -> None:
    plain = choice(live, logprobs=True, top_logprobs=20, max_tokens=1)["logprobs"]["content"][0]
    last = plain["top_logprobs"][-1]
    [token] = tiny_engine.tokenize(last["token"], add_special_tokens=False)
    fields = {"logit_bias": {str(token): 100}, "structured_outputs": {"regex": ".+"}, "presence_penalty": 1}
    forced = choice(live, logprobs=True, top_logprobs=20, max_tokens=1, **fields)["logprobs"]["content"][0]
    assert forced["token"] == last["token"] and forced["logprob"] == last["logprob"]
    assert forced["top_logprobs"] == plain["top_logprobs"]


def test_ends(live: Live, tiny_engine: Engine) -> None:
    answer = choice(live, logprobs=True, max_tokens=30, **HOT)
    tokens = [token["token"] for token in answer["logprobs"]["content"]]
    place = next(i for i in range(3, len(tokens)) if tokens[i] not in tokens[:i] and len(tokens[i]) > 1)
    [stop] = tiny_engine.tokenize(tokens[place], add_special_tokens=False)
    ended = choice(live, stop_token_ids=[stop], max_tokens=30, **HOT)
    assert ended["finish_reason"] == "stop" and ended["message"]["content"] == "".join(tokens[:place])
    # It cannot be drawn before min_tokens, so that the answer goes on in another way.
    later = live.chat(stop_token_ids=[stop], min_tokens=place + 3, max_tokens=30, **HOT).json()
    assert later["usage"]["completion_tokens"] > place + 2
    end = {str(token): 100 for token in tiny_engine.end_ids}
    assert live.chat(logit_bias=end).json()["usage"]["completion_tokens"] == 1
    assert live.chat(logit_bias=end, min_tokens=4).json()["usage"]["completion_tokens"] == 4
    assert choice(live, logit_bias=end, ignore_eos=True)["finish_reason"] == "length"


def test_stop_strings_count_from_min_tokens_on(live: Live) -> None:
    fields = {"guided_regex": "(abc){9}", "stop": "c", "max_tokens": 40}
    assert text(live, **fields) == "ab"
    later = live.chat(min_tokens=5, **fields).json()
    assert later["usage"]["completion_tokens"] > 5
    assert later["choices"][0]["message"]["content"] in {"abc" * times + "ab" for times in range(1, 4)}


def test_going_on_with_the_last_message(live: Live, tiny_engine: Engine) -> None:
    opened = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the quick brown"}]
    fields: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False, **HOT}
    going_on = live.chat(messages=opened, **fields).json()
    closed = live.chat(messages=opened, add_generation_prompt=False, **HOT).json()
    followed = live.chat(messages=opened, **HOT).json()
    lengths = [answer["usage"]["prompt_tokens"] for answer in (going_on, closed, followed)]
    assert lengths == sorted(lengths) and len(set(lengths)) == 3
    # Word by word as without a break: what was said is told again as the model's own beginning.
    whole = text(live, max_tokens=12)
    words = whole[: len(whole) // 2]
    if words.strip() == words and words:
        rest = text(live, messages=[opened[0], {"role": "assistant", "content": words}], **{**fields, "temperature": 0})
        assert (words + rest)[: len(whole)] == whole


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n", "top_k", "min_tokens", "seed"])
def test_a_whole_number_is_a_whole_number(live: Live, field: str) -> None:
    hot = {"temperature": 1.0, "seed": 1}
    assert choice(live, **{**hot, field: 2.0}) == choice(live, **{**hot, field: 2})
    refused = live.chat(**{**hot, field: 2.5})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == field
