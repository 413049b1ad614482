"""The layout of MiniGPT-v2's public release: what its files hold, under which names, in which shapes.

The release is three things: EVA-CLIP-g as LAVIS publishes it (`eva_vit_g.pth`), Llama-2-7b-chat, and a `.pth` with what
was trained on top, a projector and a LoRA. Its own loader ignores keys that do not match, which loses the LoRA without
a word; here every key and every shape must match.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from transformers import Blip2VisionConfig, LlamaConfig, LlamaForCausalLM

from fourfold.assistant.checkpoints.damage import told_as_damage
from fourfold.assistant.checkpoints.original.tensor_files import Shape, TensorFiles, shorten
from fourfold.prompts.errors import UserError

HEAD_SIZE = 88  # of EVA-CLIP-g; the file does not say how many heads there are
LORA_ALPHA = 16
LORA_TARGETS = ("q_proj", "v_proj")
LORA_PREFIX = "llama_model.base_model.model.model."

_EVA_CLIP_G_WIDTH, _EVA_CLIP_G_BLOCKS = 1408, 40
# The tower's classifier and final norm: MiniGPT-v2 has no module for them, and its loader passes over them.
_UNUSED_VISION = re.compile(r"(norm|fc_norm|head)\.(weight|bias)|mask_token")
_NORM: tuple[str, ...] = ("ln_vision.weight", "ln_vision.bias")
_INV_FREQ = re.compile(r".*\brotary_emb\.inv_freq")


@dataclass(frozen=True)
class VisionLayout:
    """Sizes of the tower as its file has them.

    Args:
        width: of a token.
        mlp: width of the hidden layer of a block's MLP.
        patch: side of a patch in pixels.
        blocks: in the file; the last one is not used.
        grid: patches in a row of the image that the positions were learnt for.
    """

    width: int
    mlp: int
    patch: int
    blocks: int
    grid: int

    def config(self, image_size: int) -> Blip2VisionConfig:
        """BLIP-2's tower of these sizes, without the last block, for images of `image_size` pixels."""
        return Blip2VisionConfig(
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_hidden_layers=self.blocks - 1,
            num_attention_heads=self.width // HEAD_SIZE,
            image_size=image_size,
            patch_size=self.patch,
            layer_norm_eps=1e-6,
        )

    def shapes(self) -> dict[str, Shape]:
        width, mlp = self.width, self.mlp
        shapes: dict[str, Shape] = {
            "cls_token": (1, 1, width),
            "pos_embed": (1, 1 + self.grid**2, width),
            "patch_embed.proj.weight": (width, 3, self.patch, self.patch),
            "patch_embed.proj.bias": (width,),
        }
        for block in range(self.blocks):
            for name, shape in {
                "norm1.weight": (width,),
                "norm1.bias": (width,),
                "attn.q_bias": (width,),
                "attn.v_bias": (width,),
                "attn.qkv.weight": (3 * width, width),
                "attn.proj.weight": (width, width),
                "attn.proj.bias": (width,),
                "norm2.weight": (width,),
                "norm2.bias": (width,),
                "mlp.fc1.weight": (mlp, width),
                "mlp.fc1.bias": (mlp,),
                "mlp.fc2.weight": (width, mlp),
                "mlp.fc2.bias": (width,),
            }.items():
                shapes[f"blocks.{block}.{name}"] = shape
        return shapes


def read_vision_layout(files: TensorFiles) -> VisionLayout:
    """Sizes of the tower in `files`, which must hold all of it and nothing else.

    Raises:
        UserError: a key is missing, unexpected or of another shape.
    """
    shapes = {key: shape for key, shape in files.shapes.items() if not _UNUSED_VISION.fullmatch(key)}
    blocks = [int(key.split(".")[1]) for key in shapes if re.match(r"blocks\.\d+\.", key)]
    widths = _sizes(shapes, r"blocks\.\d+\.norm1\.weight", 0)
    if not blocks or not widths:
        raise UserError(f"{files.title}: {files.paths[0]} is no EVA tower. {_vision_cause(shapes)}")
    rows = shapes.get("pos_embed", (1, 257, 0))[1:2] or (257,)
    layout = VisionLayout(
        width=_most_common(widths),
        mlp=_most_common(_sizes(shapes, r"blocks\.\d+\.mlp\.fc1\.bias", 0), 6144),
        patch=_most_common(_sizes(shapes, r"patch_embed\.proj\.weight", -1), 14),
        blocks=max(blocks) + 1,
        grid=math.isqrt(max(rows[0] - 1, 1)),
    )
    _require(files, shapes, layout.shapes(), _vision_cause(shapes))
    if layout.width % HEAD_SIZE:
        raise UserError(
            f"{files.title}: its width {layout.width} is not a multiple of EVA-CLIP-g's head size {HEAD_SIZE}"
        )
    if (layout.width == _EVA_CLIP_G_WIDTH and layout.blocks != _EVA_CLIP_G_BLOCKS) or layout.blocks < 2:
        raise UserError(
            f"{files.title}: {files.paths[0]} has {layout.blocks} blocks, the release's {_EVA_CLIP_G_BLOCKS}, of which "
            "the last is not used; take LAVIS's eva_vit_g.pth as it is"
        )
    return layout


def unused_vision_keys(files: TensorFiles, layout: VisionLayout) -> list[str]:
    """Keys of the tower's file that the model has no use for."""
    last = f"blocks.{layout.blocks - 1}."
    return [key for key in files.shapes if _UNUSED_VISION.fullmatch(key) or key.startswith(last)]


def require_llama(files: TensorFiles, config: LlamaConfig) -> None:
    """Check that `files` hold the whole language model that `config` describes, and nothing else.

    Raises:
        UserError: a key is missing, unexpected or of another shape.
    """
    with told_as_damage(files.paths[0].parent / "config.json"), torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings and "lm_head.weight" not in files.shapes:
        del expected["lm_head.weight"]
    shapes = {key: shape for key, shape in files.shapes.items() if not _INV_FREQ.fullmatch(key)}
    if any(".lora_" in key for key in shapes):
        cause = "It has an adapter in it: take the model as Meta published it."
    elif expected.keys() - shapes.keys():
        cause = "Shards are incomplete, or config.json belongs to another model."
    else:
        cause = (
            "config.json belongs to another model, or the vocabulary was changed: take the model as Meta published it."
        )
    _require(files, shapes, expected, cause)
    _check_inv_freq(files, files.shapes.keys(), config)


@dataclass(frozen=True)
class TrainedParts:
    """What the release trained: projector and LoRA.

    Args:
        rank: of the LoRA.
        names: our name of each tensor ("llama_proj.weight", "layers.0.self_attn.q_proj.lora_A.weight") → the file's.
        unused: keys that the model has no use for.
    """

    rank: int
    names: Mapping[str, str]
    unused: tuple[str, ...]


def read_trained_parts(files: TensorFiles, vision_width: int, config: LlamaConfig, fold: int) -> TrainedParts:
    """Find projector and LoRA in the release's file, under old (0.2) or newer names of peft.

    Raises:
        UserError: a key is missing, unexpected or of another shape, or the norm after the image tower is trained.
    """
    names: dict[str, str] = {}
    shapes: dict[str, Shape] = {}
    unused = tuple(key for key in files.shapes if _INV_FREQ.fullmatch(key))
    for key, shape in files.shapes.items():
        if key in unused:
            continue
        name = (
            key.removeprefix(LORA_PREFIX)
            .replace(".lora_A.default.", ".lora_A.")
            .replace(".lora_B.default.", ".lora_B.")
        )
        if name in names:
            raise UserError(f"{files.title}: it holds {key} and {names[name]}, which are the same tensor; remove one")
        names[name], shapes[name] = key, shape

    ranks = _sizes(shapes, r"layers\..*\.lora_A\.weight", 0)
    rank = _most_common(ranks, 64)
    expected = _trained_shapes(vision_width, config, fold, rank)
    norm = {key: shapes.pop(key) for key in _NORM if key in shapes}
    for key in norm:
        del names[key]
    if norm:
        expected_norm: dict[str, Shape] = dict.fromkeys(_NORM, (vision_width,))
        _require(files, norm, expected_norm, "The norm after the image tower has another width than the tower.")
        _refuse_trained_norm(files)
    # Messages speak the file's language.
    file_names = {name: names.get(name, _file_name(name)) for name in expected | shapes}
    _require(
        files,
        {file_names[name]: shape for name, shape in shapes.items()},
        {file_names[name]: shape for name, shape in expected.items()},
        _trained_cause(shapes, expected, config),
    )
    _check_inv_freq(files, unused, config)
    return TrainedParts(rank=rank, names=names, unused=(*unused, *norm))


def _trained_shapes(vision_width: int, config: LlamaConfig, fold: int, rank: int) -> dict[str, Shape]:
    width = config.hidden_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    outputs = {"q_proj": config.num_attention_heads * head, "v_proj": config.num_key_value_heads * head}
    shapes: dict[str, Shape] = {"llama_proj.weight": (width, vision_width * fold), "llama_proj.bias": (width,)}
    for layer in range(config.num_hidden_layers):
        for target in LORA_TARGETS:
            module = f"layers.{layer}.self_attn.{target}"
            shapes[f"{module}.lora_A.weight"] = (rank, width)
            shapes[f"{module}.lora_B.weight"] = (outputs[target], rank)
    return shapes


def _refuse_trained_norm(files: TensorFiles) -> None:
    """Let through only the norm that the release has: it was frozen as it was initialised, at ones and zeros."""
    weight, bias = files.read("ln_vision.weight").float(), files.read("ln_vision.bias").float()
    if not (bool((weight == 1).all()) and bool((bias == 0).all())):
        raise UserError(
            f"{files.title}: {files.paths[0]} brings an ln_vision that is not the identity. MiniGPT-v2 never "
            "trained it, so it is probably BLIP-2's, which would spoil every image without an error; remove "
            "ln_vision.weight and ln_vision.bias from the file"
        )


def _check_inv_freq(files: TensorFiles, keys: Iterable[str], config: LlamaConfig) -> None:
    """Old versions of transformers saved the rotary frequencies; they tell whether the LLaMA is the right one."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    theta = float((config.rope_parameters or {}).get("rope_theta", 10000.0))
    wanted = theta ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    for key in keys:
        if not _INV_FREQ.fullmatch(key):
            continue
        if files.shapes[key] != tuple(wanted.shape) or not torch.allclose(files.read(key).double(), wanted, rtol=1e-2):
            raise UserError(
                f"{files.title}: {key} holds other rotary frequencies than the LLaMA in --llama: another model"
            )


def _file_name(name: str) -> str:
    return LORA_PREFIX + name if name.startswith("layers.") else name


def _require(files: TensorFiles, shapes: Mapping[str, Shape], expected: Mapping[str, Shape], cause: str) -> None:
    """Compare what is there with what must be there, exactly."""
    found = []
    missing = [key for key in expected if key not in shapes]
    if missing:
        found.append(f"{len(missing)} missing ({shorten(missing)})")
    unexpected = [key for key in shapes if key not in expected]
    if unexpected:
        found.append(f"{len(unexpected)} unexpected ({shorten(unexpected)})")
    misshaped = [key for key in expected if key in shapes and shapes[key] != expected[key]]
    if misshaped:
        listed = shorten(f"{key} is {list(shapes[key])}, not {list(expected[key])}" for key in misshaped)
        found.append(f"{len(misshaped)} of another shape ({listed})")
    if found:
        place = files.paths[0] if len(files.paths) == 1 else files.paths[0].parent
        raise UserError(f"{files.title}: {place} does not fit, keys: {'; '.join(found)}. {cause}")


def _vision_cause(shapes: Mapping[str, Shape]) -> str:
    if any(key.startswith(("visual_encoder.", "Qformer.", "query_tokens")) for key in shapes):
        return "It is a whole BLIP-2 or MiniGPT-4: --vision takes the image tower alone, LAVIS's eva_vit_g.pth."
    if any(key.startswith("visual.") for key in shapes):
        return "It is EVA-CLIP's own file: --vision takes the copy that LAVIS publishes, eva_vit_g.pth."
    if any(key.endswith("attn.qkv.bias") for key in shapes):
        return "It was converted for another library: --vision takes LAVIS's eva_vit_g.pth as it is."
    if any(key.startswith("llama_proj") for key in shapes):
        return "It looks like the MiniGPT-v2 checkpoint, which goes to --checkpoint."
    return "It is damaged, was edited, or is another tower: --vision takes LAVIS's eva_vit_g.pth as it is."


def _trained_cause(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], config: LlamaConfig) -> str:
    layers = {int(match[1]) for key in shapes if (match := re.match(r"layers\.(\d+)\.", key))}
    lora = [key for key in shapes if ".lora_" in key]
    if any(key.startswith("module.") for key in shapes):
        return "It was saved from a wrapped model: take `module.` off the names."
    if any(key.startswith(("Qformer.", "query_tokens", "t5_proj")) for key in shapes) or (
        shapes.get("llama_proj.weight", (0, 0))[1:] == (768,)
    ):
        return "It is a checkpoint of MiniGPT-4 or BLIP-2, not of MiniGPT-v2."
    if any(key.startswith(("patch_embed.", "blocks.")) for key in shapes):
        return "It looks like the image tower, which goes to --vision."
    if not lora:
        return "It has no LoRA: it is another model's, or was merged already."
    if any(module not in LORA_TARGETS for module in (key.split(".lora_")[0].rpartition(".")[2] for key in lora)):
        return "Its LoRA was trained on other modules than q_proj and v_proj."
    if layers != set(range(config.num_hidden_layers)):
        return f"It was trained on a LLaMA of {max(layers) + 1} layers; --llama has {config.num_hidden_layers}."
    if shapes.get("llama_proj.bias", expected["llama_proj.bias"]) != expected["llama_proj.bias"]:
        return f"It was trained on a LLaMA {shapes['llama_proj.bias'][0]} wide; --llama is {config.hidden_size} wide."
    if expected.keys() <= shapes.keys():
        return "It holds more than MiniGPT-v2 trains: save the projector and the LoRA alone."
    return "It is damaged or was edited: download it again."


def _sizes(shapes: Mapping[str, Shape], pattern: str, axis: int) -> list[int]:
    return [shape[axis] for key, shape in shapes.items() if shape and re.fullmatch(pattern, key)]


def _most_common(sizes: list[int], otherwise: int = 0) -> int:
    return Counter(sizes).most_common(1)[0][0] if sizes else otherwise
