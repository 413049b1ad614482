"""What `generate` must keep to, whatever draws the tokens; transformers' own tests of it are not in its archive."""

from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from questions import expected, messages
from test_loading import answer, encode, load, processor_of
from transformers import DynamicCache, TextIteratorStreamer

QUESTIONS = ["one image", "two images", "no image"]
TOKENS, IMAGE_TOKEN_ID = 8, 3


@pytest.fixture(scope="module")
def processor(tiny: Path) -> Any:
    return processor_of(tiny)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    return load(tiny)


@pytest.fixture(scope="module", params=QUESTIONS)
def inputs(request: pytest.FixtureRequest, processor: Any) -> dict[str, torch.Tensor]:
    return encode(processor, messages(request.param))


@pytest.fixture(scope="module")
def batch(processor: Any) -> dict[str, torch.Tensor]:
    return encode(processor, [messages(question) for question in QUESTIONS], processor_kwargs={"padding": True})


def generate(model: Any, inputs: Any, **options: Any) -> Any:
    return model.generate(**inputs, **({"max_new_tokens": TOKENS, "do_sample": False} | options))


def new_tokens(model: Any, inputs: Any, **options: Any) -> torch.Tensor:
    return generate(model, inputs, **options)[:, inputs["input_ids"].shape[1] :]


def scored(model: Any, inputs: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of (rows, length) new tokens, from one pass over everything: (rows, length)."""
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(tokens)], dim=1)
    everything = {**inputs, "input_ids": torch.cat([inputs["input_ids"], tokens], dim=1), "attention_mask": mask}
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(**everything, position_ids=positions).logits[:, -tokens.shape[1] - 1 : -1]
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def naive(model: Any, inputs: Any) -> list[int]:
    """Greedy, each token from a pass over the whole text."""
    ids, new = inputs["input_ids"], []
    while len(new) < TOKENS:
        with torch.inference_mode():
            logits = model(input_ids=ids, pixel_values=inputs.get("pixel_values"), use_cache=False).logits
        new.append(int(logits[0, -1].argmax()))
        if new[-1] == model.generation_config.eos_token_id:
            break
        ids = torch.cat([ids, torch.tensor([[new[-1]]])], dim=1)
    return new


def test_greedy_is_a_pass_a_token(model: Any, inputs: Any) -> None:
    assert new_tokens(model, inputs)[0].tolist() == naive(model, inputs)


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        # Else placeholders, of which a prompt with images is full, are proposed as the answer.
        {"prompt_lookup_num_tokens": 3, "suppress_tokens": [IMAGE_TOKEN_ID]},
        {"do_sample": True, "top_k": 1},
    ],
    ids=lambda options: next(iter(options.items())),
)
def test_other_ways_to_the_same_tokens(model: Any, inputs: Any, options: dict[str, Any]) -> None:
    assert torch.equal(new_tokens(model, inputs, **options), new_tokens(model, inputs))


def test_a_draft_model_changes_nothing(model: Any, inputs: Any, tiny: Path) -> None:
    draft = load(tiny)
    noise = torch.randn(draft.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        draft.lm_head.weight.add_(0.05 * noise)
    # It may propose a placeholder too.
    tokens = new_tokens(model, inputs, assistant_model=draft, suppress_tokens=[IMAGE_TOKEN_ID])
    assert torch.equal(tokens, new_tokens(model, inputs))


def test_embeddings_in_place_of_tokens(model: Any, inputs: Any) -> None:
    """Images find their places in them."""
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    rest = {key: value for key, value in inputs.items() if key != "input_ids"}
    tokens = model.generate(inputs_embeds=embeds, **rest, max_new_tokens=TOKENS, do_sample=False)
    assert torch.equal(tokens, new_tokens(model, inputs))


def test_going_on_with_the_cache_of_an_earlier_answer(model: Any, inputs: Any) -> None:
    whole = generate(model, inputs, eos_token_id=-1)
    cache = DynamicCache(config=model.config)
    first = generate(model, inputs, max_new_tokens=3, eos_token_id=-1, past_key_values=cache)
    rest = {"input_ids": first, "attention_mask": torch.ones_like(first)}
    again = generate(model, rest, max_new_tokens=TOKENS - 3, eos_token_id=-1, past_key_values=cache)
    assert torch.equal(again, whole)


def test_scores_are_those_of_one_pass(model: Any, batch: Any) -> None:
    out = generate(model, batch, eos_token_id=-1, output_scores=True, return_dict_in_generate=True)
    tokens = out.sequences[:, batch["input_ids"].shape[1] :]
    theirs = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    torch.testing.assert_close(theirs, scored(model, batch, tokens), rtol=1e-4, atol=1e-3)


def test_beams_over_rows_with_different_numbers_of_images(model: Any, batch: Any) -> None:
    """Each beam sees its own row's images: its score is the mean log-probability of its tokens."""
    beams, options = 3, {"eos_token_id": -1, "output_scores": True, "return_dict_in_generate": True}
    out = generate(model, batch, num_beams=beams, num_return_sequences=beams, **options)
    tokens = out.sequences[:, batch["input_ids"].shape[1] :]
    for row, question in enumerate(QUESTIONS):
        mine = slice(row * beams, row * beams + beams)
        alone = {key: value[row : row + 1] for key, value in batch.items() if key != "pixel_values"}
        images = {"one image": slice(0, 1), "two images": slice(1, 3)}.get(question)
        for beam, score in zip(tokens[mine], out.sequences_scores[mine], strict=True):
            shown = {} if images is None else {"pixel_values": batch["pixel_values"][images]}
            mean = scored(model, {**alone, **shown}, beam[None]).mean()
            torch.testing.assert_close(score, mean, rtol=1e-4, atol=1e-3, msg=question)
    assert torch.equal(new_tokens(model, batch, num_beams=1), new_tokens(model, batch))


def test_several_answers_a_row_are_those_of_the_row(model: Any, batch: Any) -> None:
    """Drawn among one token, so that they must all be the greedy one."""
    answers = new_tokens(model, batch, do_sample=True, top_k=1, num_return_sequences=2)
    assert torch.equal(answers, new_tokens(model, batch).repeat_interleave(2, dim=0))


def test_sampling_with_a_seed(model: Any, batch: Any) -> None:
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(new_tokens(model, batch, do_sample=True, temperature=2.0))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_attentions_and_hidden_states_of_each_step(tiny: Path, inputs: Any) -> None:
    model = load(tiny, attn_implementation="eager")
    flags = {"output_attentions": True, "output_hidden_states": True, "return_dict_in_generate": True}
    out = generate(model, inputs, max_new_tokens=3, eos_token_id=-1, **flags)
    length, text = inputs["input_ids"].shape[1], model.config.text_config
    for step in range(3):
        queries = length if step == 0 else 1
        attentions, states = out.attentions[step], out.hidden_states[step]
        assert len(attentions) == text.num_hidden_layers and len(states) == text.num_hidden_layers + 1
        assert attentions[0].shape == (1, text.num_attention_heads, queries, length + step)
        torch.testing.assert_close(attentions[0].sum(-1), torch.ones_like(attentions[0].sum(-1)))
        assert states[-1].shape == (1, queries, text.hidden_size)
        token = model.lm_head(states[-1])[0, -1].argmax()
        assert int(token) == int(out.sequences[0, length + step])


def test_streamed_text_is_the_text(model: Any, processor: Any, inputs: Any) -> None:
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    thread = Thread(target=generate, args=(model, inputs), kwargs={"streamer": streamer})
    thread.start()
    said = "".join(streamer)
    thread.join()
    assert said == processor.decode(new_tokens(model, inputs)[0], skip_special_tokens=True)


def test_compiled_generation(tiny: Path, processor: Any) -> None:
    """A static cache and a compiled forward pass, as `generate` does it on a GPU."""
    model = load(tiny)
    model.forward = torch.compile(model.forward, fullgraph=True, backend="eager")
    inputs = encode(processor, messages("one image"))
    tokens = new_tokens(model, inputs, cache_implementation="static", max_new_tokens=4)
    assert tokens[0].tolist() == expected("tiny", "one image", "answer").tolist()[:4]
    assert answer(load(tiny), inputs)[0][:4] == tokens[0].tolist()
