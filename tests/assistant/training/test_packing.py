import pytest
import torch
from PIL import Image

from fourfold.assistant.training.data.sample import ImageRef, Sample, Turn
from fourfold.assistant.training.packing import Packer, collate
from fourfold.assistant.training.recipe import LoraSettings
from fourfold.assistant.training.trainable_model import TrainableModel
from fourfold.prompts.chat import load_template
from fourfold.prompts.tasks import Task
from tests.tiny import tiny_model, tiny_processor

TURNS = (
    Turn(Task.VQA, "[vqa] is there a dog?", "yes"),
    Turn(Task.CAPTION, "[caption] what is it?", "The quick brown fox."),
    Turn(Task.REFER, "[refer] the car", "{<10><20><30><40>}"),
)
IMAGE = ImageRef("x")


@pytest.fixture(scope="module")
def packer():
    return Packer(tiny_processor())


def _template(turns):
    """Tokens and answer mask by the processor's own chat template."""
    processor = tiny_processor()
    messages = []
    for number, turn in enumerate(turns):
        text = {"type": "text", "text": turn.question}
        image = [{"type": "image"}] if number == 0 else []
        messages += [
            {"role": "user", "content": [*image, text]},
            {"role": "assistant", "content": [{"type": "text", "text": turn.answer}]},
        ]
    out = processor.tokenizer.apply_chat_template(
        messages,
        chat_template=processor.chat_template,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = [], []
    for token, answer in zip(out["input_ids"], out["assistant_masks"], strict=True):
        repeat = processor.num_image_tokens if token == processor.image_token_id else 1
        ids += [token] * repeat
        mask += [answer] * repeat
    return ids, mask


def test_a_conversation_has_the_tokens_of_the_template(packer):
    packed = packer.pack(Sample((IMAGE,), TURNS, multi_turn=True))
    ids, mask = _template(TURNS)
    # The template ends with a line break after the last answer, which nothing is learnt from.
    assert packed.ids == ids[: len(packed.ids)] and len(ids) - len(packed.ids) <= 1
    assert [weight > 0 for weight in packed.weights] == [bool(m) for m in mask[: len(packed.ids)]]
    assert packed.positions == list(range(len(packed.ids)))


def test_turns_apart_have_the_tokens_of_their_own_conversations(packer):
    packed = packer.pack(Sample((IMAGE,), TURNS))
    for number, turn in enumerate(TURNS):
        ids, _ = _template([turn])
        mine = [t for t, group in zip(packed.ids, packed.groups, strict=True) if group in (0, number + 1)]
        assert mine == ids[: len(mine)]
        assert packer.prompt(turn.question) == mine[: len(packer.prompt(turn.question))]


def test_of_what_came_before_a_turn_nothing_is_learnt(packer):
    later = Turn(Task.VQA, "are you sure?", "yes", history=((TURNS[0].question, "no"), ("look again", "yes")))
    packed = packer.pack(Sample((IMAGE,), (TURNS[1], later)))
    said = (*(Turn(Task.VQA, *exchange) for exchange in later.history), later)
    ids, mask = _template(said)
    shared = packed.groups.count(0)
    own = [place for place, group in enumerate(packed.groups) if group == 2]
    assert packed.ids[:shared] + [packed.ids[place] for place in own] == ids[: shared + len(own)]
    assert [packed.positions[place] for place in own] == list(range(shared, shared + len(own)))
    last = len(mask) - 1 - mask[::-1].index(1)
    first = max(place for place in range(last) if not mask[place]) + 1
    assert [shared + n for n, place in enumerate(own) if packed.weights[place]] == list(range(first, last + 1))


def test_an_answers_tokens_weigh_less_the_more_they_are(packer):
    packed = packer.pack(Sample((IMAGE,), TURNS))
    for group in (1, 2, 3):
        weights = [w for w, g in zip(packed.weights, packed.groups, strict=True) if g == group and w]
        assert sum(weights) == pytest.approx(len(weights) ** 0.5)


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("{<12><30><5><100>}", ["12", "30", "5", "100"]),
        ("<p>12 dogs</p> {<12><30><56><80>}<delim>{<1><2><30><40>}", ["12", "30", "56", "80", "1", "2", "30", "40"]),
        ("12 dogs and 30 cats.", []),
    ],
)
def test_tens_digits_of_boxes_weigh_more(packer, answer, numbers):
    heavy = Packer(tiny_processor(), box_tens=3.0)
    sample = Sample((IMAGE,), (Turn(Task.REFER, "where is it? {<10><20><30><40>}", answer), TURNS[0]))
    plain, weighted = packer.pack(sample), heavy.pack(sample)
    assert (plain.ids, plain.positions, plain.groups) == (weighted.ids, weighted.positions, weighted.groups)
    decode = packer.tokenizer.decode
    own = [place for place, weight in enumerate(plain.weights) if weight and plain.groups[place] == 1]
    texts = [decode(plain.ids[place]) for place in own]
    # Independently: in front of the ones digit of every number that stands in brackets, in the order of the text.
    tens, digits, inside = [], [], False
    for number, text in enumerate(texts):
        if text.isdigit() and inside:
            digits.append(number)
        else:
            tens += digits[:-1]
            digits, inside = [], text.endswith("<")
    assert "".join(texts[number] for number in tens) == "".join(number[:-1] for number in numbers)
    weights = [weighted.weights[place] for place in own]
    ones = {weight for number, weight in enumerate(weights) if number not in tens}
    assert len(ones) == 1 and all(weights[number] == pytest.approx(3 * ones.copy().pop()) for number in tens)
    assert sum(weights) == pytest.approx(len(own) ** 0.5), "an answer as a whole counts what it did"
    others = [place for place in range(len(plain)) if place not in own]
    assert all(plain.weights[place] == weighted.weights[place] for place in others)


@pytest.fixture(scope="module")
def trainable():
    return TrainableModel(tiny_model(vocab_size=len(tiny_processor().tokenizer)), LoraSettings(rank=0)).eval()


def _losses(trainable, packer, samples, features):
    batch = collate([packer.pack(sample) for sample in samples], packer.padding_id)
    tokens = trainable(batch, features).tokens
    return {int(turn): tokens[batch.turns == turn] for turn in batch.turns.unique()}


def test_a_packed_turns_loss_is_that_of_the_turn_alone(trainable, packer):
    features = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(1))
    short = Sample((IMAGE,), TURNS[:1])
    packed = _losses(trainable, packer, [Sample((IMAGE,), TURNS), short], features)
    for number, turn in enumerate(TURNS):
        alone = _losses(trainable, packer, [Sample((IMAGE,), (turn,))], features[:1])
        assert torch.allclose(packed[number + 1], alone[1], atol=2e-5), turn
    # Padding beside a longer sample changes nothing either.
    assert torch.allclose(packed[1001], _losses(trainable, packer, [short], features[1:])[1], atol=2e-5)


def test_a_conversations_loss_is_that_of_the_model_with_labels(trainable, packer):
    features = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(2))
    packed = packer.pack(Sample((IMAGE,), TURNS, multi_turn=True))
    batch = collate([packed], packer.padding_id, multiple=1)
    labels = torch.tensor([[t if w else -100 for t, w in zip(packed.ids, packed.weights, strict=True)]])
    inner = trainable.model.model
    embeds = inner.embed(batch.ids, inner.project_features(features))
    expected = trainable.model(inputs_embeds=embeds, labels=labels).loss
    assert torch.allclose(trainable(batch, features).tokens.mean(), expected, atol=1e-5)


TWO = (ImageRef("x"), ImageRef("y"))


@pytest.mark.parametrize("images", [(), (IMAGE,), TWO])
@pytest.mark.parametrize("template", ["chatml", "minigpt_v2"])
def test_any_number_of_images_stands_where_the_processor_puts_it(images, template):
    processor = tiny_processor()
    if template == "minigpt_v2":
        processor.chat_template = load_template(template).replace("</s>", processor.tokenizer.eos_token)
    packer = Packer(processor)
    parts = [{"type": "image"}] * len(images)
    for turns, sample in (
        (TURNS, Sample(images, TURNS, multi_turn=True)),
        (TURNS, Sample(images, TURNS[2:], history=tuple((turn.question, turn.answer) for turn in TURNS[:2]))),
        (TURNS[:1], Sample(images, TURNS[:1])),
    ):
        messages = []
        for number, turn in enumerate(turns):
            shown = parts if number == 0 else []
            messages.append({"role": "user", "content": [*shown, {"type": "text", "text": turn.question}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
        text = processor.tokenizer.apply_chat_template(messages, chat_template=processor.chat_template, tokenize=False)
        pictures = [Image.new("RGB", (8, 8)) for _ in images]
        ids = processor(text=text, images=pictures or None)["input_ids"][0]
        packed = packer.pack(sample)
        decode = processor.tokenizer.decode
        assert decode(packed.ids) == decode(ids).removesuffix("\n")
        # The other template ends the prompt with a space, which this tokenizer would make a part of the answer.
        begins = packed.ids.index(processor.tokenizer.convert_tokens_to_ids("<ImageHere>")) if images else 0
        same = begins + len(images) * processor.num_image_tokens if template == "minigpt_v2" else len(packed.ids)
        assert packed.ids[:same] == list(ids)[:same]
        assert packed.ids.count(processor.image_token_id) == len(images) * processor.num_image_tokens
        assert packed.images == len(images)


def test_images_of_a_batch_go_to_their_samples_in_order(trainable, packer):
    features = torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(3))
    samples = [Sample(images, TURNS[:2]) for images in ((IMAGE,), (), TWO, (), (IMAGE,))]
    together = _losses(trainable, packer, samples, features)
    for row, theirs in enumerate((features[:1], features[:0], features[1:3], features[:0], features[3:])):
        alone = _losses(trainable, packer, [samples[row]], theirs)
        for number in (1, 2):
            assert torch.allclose(together[row * 1000 + number], alone[number], atol=2e-5), (row, number)
    swapped = _losses(trainable, packer, [samples[2]], features[1:3].flip(0))
    assert not torch.allclose(together[2001], swapped[1], atol=1e-3)


def test_a_batch_without_an_image_can_be_learnt(packer):
    trainable = TrainableModel(tiny_model(vocab_size=len(tiny_processor().tokenizer)), LoraSettings(rank=4, alpha=8))
    batch = collate([packer.pack(Sample((), TURNS[:2])), packer.pack(Sample((), TURNS[1:]))], packer.padding_id)
    loss = trainable(batch, torch.empty(0, 16, 32)).value
    loss.backward()
    assert loss > 0
    assert any(
        p.grad.abs().max() > 0 for n, p in trainable.model.named_parameters() if n.endswith("lora_B.default.weight")
    )
