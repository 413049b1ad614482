"""Llama-2's tokenizer as MiniGPT-v2's release used it, with a token for the place of an image."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import SentencePieceExtractor, generate_merges

from fourfold.assistant.checkpoints.damage import told_as_damage
from fourfold.assistant.model import IMAGE_TOKEN
from fourfold.prompts.errors import UserError

_BPE, _NORMAL, _UNKNOWN, _CONTROL, _BYTE = 2, 1, 2, 3, 6  # sentencepiece's numbers for kinds of models and pieces
# Segments of prompts on which the copy is compared with sentencepiece before anything is written.
_PROBES = (
    "[INST] <Img>",
    "</Img> [vqa] what is 12 + 3.5? [/INST]",
    "</Img>  [refer] give me the location of a dog  [/INST]",
    "{<10><20><99><100>}",
    "<p>a dog</p> {<1><2><3><4>}<delim>{<5><6><7><8>}",
    " Ünï¢ödé 漢字 🙂\n\tend ",
)


def release_tokenizer(model_file: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    """Llama-2's sentencepiece vocabulary as a tokenizer of transformers, and one more id for `<ImageHere>`.

    The release cut the prompt at `<ImageHere>` and gave each piece to the slow tokenizer, which puts sentencepiece's
    leading space before every piece, and after every `<s>` and `</s>` too. That is built in here: whatever follows a
    special token starts with a space of its own. The tokenizer that transformers would make today adds one at the start
    of the text only, and its ids differ at every border.

    The padding token is `<unk>`: the release asked for `$$`, which is not in the vocabulary.

    Args:
        model_file: `tokenizer.model`.
        vocabulary: rows of the language model's embedding table; `<ImageHere>` gets this number as its id.

    Raises:
        UserError: the file is missing or not Llama-2's kind of tokenizer, or it has another size.
    """
    if not model_file.is_file():
        raise UserError(f"{model_file} is missing; it comes with Llama-2-7b-chat-hf, so download it into --llama")
    try:
        proto = SentencePieceExtractor(str(model_file)).proto
    except Exception as error:  # protobuf's DecodeError, whose module depends on how protobuf was built
        raise UserError(f"{model_file} is not a sentencepiece model ({error}); download it again") from error
    kinds = [piece.type for piece in proto.pieces]
    normal = proto.normalizer_spec
    if (
        proto.trainer_spec.model_type != _BPE
        or kinds[:3] != [_UNKNOWN, _CONTROL, _CONTROL]
        or kinds.count(_BYTE) != 256
        or not normal.add_dummy_prefix
        or normal.remove_extra_whitespaces
        or normal.precompiled_charsmap
    ):
        raise UserError(f"{model_file} is not a tokenizer of Llama-2's kind (BPE with bytes, <unk> <s> </s> first)")
    if len(proto.pieces) != vocabulary:
        raise UserError(
            f"{model_file} has {len(proto.pieces)} tokens, the language model {vocabulary}: take both from one model"
        )

    with told_as_damage(model_file):
        scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
        vocab = {piece.piece: index for index, piece in enumerate(proto.pieces)}
        merges = generate_merges({piece: vocab[piece] for piece in scores}, scores)
        unk, bos, eos = (piece.piece for piece in proto.pieces[:3])
        backend = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in (unk, bos, eos, IMAGE_TOKEN)])
        _compare_with_sentencepiece(backend, model_file)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
        pad_token=unk,
        additional_special_tokens=[IMAGE_TOKEN],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _compare_with_sentencepiece(backend: Tokenizer, model_file: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    original = SentencePieceProcessor(model_file=str(model_file))
    for probe in _PROBES:
        if backend.encode(probe, add_special_tokens=False).ids != original.encode(probe):
            raise UserError(f"{model_file} cannot be carried over exactly: {probe!r} would get other token ids")
