"""Quantized weights: the schemes there are, what each needs, and checkpoints that hold them.

What is quantized are the linear layers of the language model, where nearly all of the weights are. The vision tower,
its projector and the output head stay as they are: they are small, and a verdict suffers most where they suffer.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from ..sources import shipped
from .errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

Quantization: TypeAlias = Literal["nf4", "int8", "torchao-int4", "torchao-int8", "torchao-fp8"]
_CARD: Final = "README.md"
_COPIED: Final = ("*.json", "*.jinja", "*.txt", "*.model", _CARD, "LICENSE*", "NOTICE*")
_WRITTEN_ANEW: Final = re.compile(r"config\.json|generation_config\.json|.*\.index\.json")


@dataclass(frozen=True)
class Scheme:
    """A way to keep weights in fewer bits.

    Attributes:
        name: what users call it.
        summary: what it does to a weight.
        library: the package that does it.
        devices: the types of device it runs on.
        dtypes: names of the precisions that the rest of the model may have; empty if any.
        build: makes the transformers config of the modules to leave as they are and the precision to compute in.
        stored: how a `config.json` names it: bitsandbytes' type of weight, or torchao's config.
    """

    name: str
    summary: str
    library: str
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    build: Callable[[Sequence[str], torch.dtype], Any]
    stored: str


def _nf4(kept: Sequence[str], compute: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=list(kept),
    )


def _int8(kept: Sequence[str], compute: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(kept))


def _torchao_int4(kept: Sequence[str], compute: torch.dtype) -> Any:
    from torchao.quantization import Int4WeightOnlyConfig
    from transformers import TorchAoConfig

    # The one int4 layout whose kernels come with torch itself.
    return TorchAoConfig(Int4WeightOnlyConfig(group_size=64, int4_packing_format="tile_packed_to_4d"), list(kept))


def _torchao_int8(kept: Sequence[str], compute: torch.dtype) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), list(kept))


def _torchao_fp8(kept: Sequence[str], compute: torch.dtype) -> Any:
    from torchao.quantization import Float8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Float8WeightOnlyConfig(), list(kept))


_ANYWHERE: Final = ("cpu", "cuda", "xpu")
SCHEMES: Final[Mapping[str, Scheme]] = MappingProxyType(
    {
        scheme.name: scheme
        for scheme in (
            Scheme("nf4", "4-bit normal float, double quantization", "bitsandbytes", _ANYWHERE, (), _nf4, "nf4"),
            Scheme("int8", "LLM.int8, activations too", "bitsandbytes", _ANYWHERE, (), _int8, "int8"),
            Scheme(
                "torchao-int4",
                "4-bit integers in groups of 64",
                "torchao",
                ("cuda",),
                ("bfloat16",),
                _torchao_int4,
                "Int4WeightOnlyConfig",
            ),
            Scheme("torchao-int8", "8-bit integers", "torchao", _ANYWHERE, (), _torchao_int8, "Int8WeightOnlyConfig"),
            Scheme("torchao-fp8", "8-bit floats", "torchao", _ANYWHERE, (), _torchao_fp8, "Float8WeightOnlyConfig"),
        )
    }
)
"""Every scheme by name. NF4 with double quantization is Dettmers et al. 2023 (QLoRA), LLM.int8 Dettmers et al. 2022."""


def get_scheme(name: str) -> Scheme:
    """The scheme of a name.

    Raises:
        ModelError: there is none.
    """
    if name not in SCHEMES:
        names = ", ".join(repr(known) for known in SCHEMES)
        raise ModelError(f"quantization {name!r} is not known; it can be {names} or None")
    return SCHEMES[name]


def check_scheme(scheme: Scheme, device: torch.device, dtype: torch.dtype) -> None:
    """Make sure that a scheme can run.

    Raises:
        ModelError: its library is not installed, or it does not run on that device or at that precision.
    """
    if find_spec(scheme.library) is None:
        why = f"needs {scheme.library}: pip install 'rewarddance[quantization]'"
    elif device.type not in scheme.devices:
        why = f"does not run on {device.type}, only on {' and '.join(scheme.devices)}"
    elif scheme.dtypes and _name(dtype) not in scheme.dtypes:
        why = f"computes in {' or '.join(scheme.dtypes)}, not in {_name(dtype)}"
    else:
        import_quietly(f"transformers.integrations.{scheme.library}")
        return
    there = [
        repr(other.name) for other in SCHEMES.values() if find_spec(other.library) and device.type in other.devices
    ]
    raise ModelError(f"quantization {scheme.name!r} {why}; on {device.type} there is {', '.join([*there, 'None'])}")


def loading_options(
    source: str,
    config: PreTrainedConfig,
    quantization: str | None,
    quantize_vision: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """What transformers' `from_pretrained` is to be given so that the weights come quantized, as asked or as stored.

    Args:
        source: the model's folder or id, for messages.
        config: its config.
        quantization: the name of a scheme, or None to take the weights as they are.
        quantize_vision: quantize the vision tower and the projector too.
        device: where the model is to run.
        dtype: the precision of what is not quantized.

    Raises:
        ModelError: no such scheme, it cannot run, the weights are quantized already by another, or there is nothing
            that `quantize_vision` could mean.
    """
    stored = _stored_config(config)
    if quantize_vision and (quantization is None or stored is not None):
        reason = "name a quantization too" if stored is None else "its weights are quantized already"
        raise ModelError(f"{source}: quantize_vision says how to quantize; {reason}")
    if stored is not None:
        return _options_as_stored(source, config, stored, quantization, device, dtype)
    if quantization is None:
        return {"config": config, "dtype": dtype}
    scheme = get_scheme(quantization)
    check_scheme(scheme, device, dtype)
    built = scheme.build(modules_to_keep(config, quantize_vision), _compute_dtype(device, dtype))
    return {"config": config, "dtype": dtype, "quantization_config": built, "device_map": {"": device}}


def _options_as_stored(
    source: str,
    config: PreTrainedConfig,
    stored: dict[str, Any],
    quantization: str | None,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    name = _stored_name(stored)
    if quantization is not None and get_scheme(quantization).name != name:
        raise ModelError(
            f"{source}: its weights are quantized already, as {name}. Leave the quantization {quantization!r} out to "
            "load them so, or name the model that they were made from"
        )
    config = copy.deepcopy(config)
    if stored.get("quant_method") == "torchao":
        dtype = _stored_dtype(config) or dtype  # torchao's tensors mix with no other precision
    if name in SCHEMES:
        check_scheme(SCHEMES[name], device, dtype)
    if name == "nf4":  # it may have been written on a machine of another kind
        _holder(config).quantization_config = {**stored, "bnb_4bit_compute_dtype": _name(_compute_dtype(device, dtype))}
    return {"config": config, "dtype": dtype, "device_map": {"": device}}


def modules_to_keep(config: PreTrainedConfig, quantize_vision: bool = False) -> list[str]:
    """Names of the modules to leave as they are: the output head and, unless told otherwise, all that sees.

    All that sees is what stands beside the language model: for InternVL `vision_tower` and `multi_modal_projector`,
    for Qwen2.5-VL and Qwen3-VL `visual`.

    Raises:
        ModelError: the language model cannot be told from the rest.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    names = {module: name for name, module in model.named_modules()}
    head = model.get_output_embeddings()
    kept = [names[head]] if head is not None else []
    if quantize_vision:
        return kept
    path = names.get(model.get_decoder(), "")
    if not path:
        raise ModelError(
            f"in a model of type {config.model_type!r} the vision tower cannot be told from the language model; "
            "quantize it too (quantize_vision), or not at all"
        )
    parent: torch.nn.Module = model
    above = ""
    for step in path.split("."):
        kept += [above + name for name, _ in parent.named_children() if name != step]
        parent, above = getattr(parent, step), f"{above}{step}."
    return list(dict.fromkeys(kept))


def settle(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Have a model that bitsandbytes quantized compute precisely, differentiably and without notices.

    Args:
        model: any model as it was loaded; others are left as they are.
        dtype: the precision of what is not quantized.
    """
    import torch

    if not getattr(model, "is_loaded_in_4bit", False) and not getattr(model, "is_loaded_in_8bit", False):
        return
    for parameter in model.parameters():
        if type(parameter) is torch.nn.Parameter and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)  # transformers leaves some of a stored model in its own precision
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On CPUs with AVX512-BF16, bitsandbytes repacks the weights at the first pass: it rounds their scales to
            # bfloat16 for good, and from then on no gradient passes through.
            module.support_avx512bf16_for_cpu = False
    _silence_casts()


def save_quantized(model: PreTrainedModel, source: str, name: str, out: Path) -> None:
    """Write a quantized model as a checkpoint that :meth:`RewardModel.from_pretrained` loads as it is.

    The processor, the reward config and the licence come from the source as they are, and so does the model card, with
    a note. What is not quantized is written in half precision where nothing is lost by that. The folder is there whole
    or not at all.

    Args:
        model: a model that was quantized while it was loaded. Its weights may be cast: it is not to be used after this.
        source: the folder, the name or the hub id that it was loaded from.
        name: the name of the scheme.
        out: the folder to write; see :func:`check_free`.

    Raises:
        ModelError: the folder cannot be written, or torchao cannot store its weights as safetensors.
    """
    from safetensors import SafetensorError

    check_free(out)
    _check_storable(model, name)
    precision = _name(model.dtype)
    _halve_where_exact(model)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.partial-", dir=out.parent) as partial:
            written = Path(partial) / "model"
            model.save_pretrained(written)
            _set_dtype(written / "config.json", precision)
            _copy_companions(_folder_of(source), written)
            _write_card(written / _CARD, source, get_scheme(name), _kept(model))
            if out.exists():
                out.rmdir()
            written.rename(out)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{out}: could not be written ({error})") from error


def check_free(out: Path) -> None:
    """Make sure that a folder to be written would overwrite nothing.

    Raises:
        ModelError: it is a file, or a folder that holds something.
    """
    if out.exists() and not out.is_dir():
        raise ModelError(f"{out}: is a file; name a folder")
    if out.is_dir() and any(out.iterdir()):
        raise ModelError(f"{out}: is not empty, and nothing is overwritten; name a new folder")


def import_quietly(module: str) -> None:
    """Import a module without what bitsandbytes and torchao log meanwhile: the kernels that this machine cannot use."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import_module(module)
    finally:
        logging.disable(before)


def _compute_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    import torch

    return dtype if device.type == "cpu" else torch.bfloat16


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _holder(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config that says how the weights are quantized: the whole model's, or its language model's."""
    return config if getattr(config, "quantization_config", None) else config.get_text_config(decoder=True)


def _stored_config(config: PreTrainedConfig) -> dict[str, Any] | None:
    found = getattr(_holder(config), "quantization_config", None)
    if not found:
        return None
    return found if isinstance(found, dict) else found.to_dict()


def _stored_dtype(config: PreTrainedConfig) -> torch.dtype | None:
    import torch

    found = getattr(torch, str(config.dtype).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None


def _stored_name(stored: dict[str, Any]) -> str:
    """The scheme of a stored config, or what else it calls itself."""
    method = str(stored.get("quant_method", "unknown"))
    if method == "torchao":
        kind = stored.get("quant_type", {}).get("default", {}).get("_type")
    elif stored.get("load_in_8bit"):
        kind = "int8"
    else:
        kind = stored.get("bnb_4bit_quant_type")
    return next((scheme.name for scheme in SCHEMES.values() if kind == scheme.stored), method)


def _silence_casts() -> None:
    # LLM.int8 says at every layer of every pass that it computes in float16.
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    if _is_no_cast_notice not in logger.filters:
        logger.addFilter(_is_no_cast_notice)


def _is_no_cast_notice(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("MatMul8bitLt: inputs will be cast")


def _check_storable(model: PreTrainedModel, name: str) -> None:
    if get_scheme(name).library != "torchao":
        return
    from torchao.prototype.safetensors.safetensors_utils import ALLOWED_TENSORS_SUBCLASSES

    kinds = {type(value.data).__name__ for value in model.parameters() if hasattr(value, "__tensor_flatten__")}
    if refused := sorted(kinds - set(ALLOWED_TENSORS_SUBCLASSES)):
        raise ModelError(
            f"quantization {name!r}: this torchao cannot store {', '.join(refused)} as safetensors; quantize on "
            "loading instead, or choose another scheme"
        )


def _halve_where_exact(model: PreTrainedModel) -> None:
    import torch

    for parameter in model.parameters():
        whole = parameter.data
        if type(whole) is not torch.Tensor or whole.dtype != torch.float32:
            continue
        for dtype in (torch.bfloat16, torch.float16):
            half = whole.to(dtype)
            if torch.equal(half.float(), whole):
                parameter.data = half
                break


def _set_dtype(file: Path, precision: str) -> None:
    """Have a config name the precision that the model computes in, whatever half of it is written in."""
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "dtype": precision}, indent=2) + "\n", encoding="utf-8")


def _folder_of(source: str) -> Path:
    folder = Path(shipped(source))
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, allow_patterns=list(_COPIED)))


def _copy_companions(folder: Path, out: Path) -> None:
    for pattern in _COPIED:
        for file in folder.glob(pattern):
            if file.is_file() and not _WRITTEN_ANEW.fullmatch(file.name):
                shutil.copyfile(file, out / file.name)


def _kept(model: PreTrainedModel) -> list[str]:
    """The modules that were left as they are, by the config that the model was quantized by."""
    config = model.config.quantization_config
    return getattr(config, "llm_int8_skip_modules", None) or getattr(config, "modules_to_not_convert", None) or []


def _write_card(file: Path, source: str, scheme: Scheme, kept: Sequence[str]) -> None:
    """Put a note at the top of a model card, below its metadata."""
    origin = Path(source).resolve().name if Path(source).is_dir() else source
    note = (
        f"> Quantized from `{origin}`: its linear layers are in {scheme.name} ({scheme.summary}, by {scheme.library}), "
        f"except for {', '.join(f'`{module}`' for module in kept)}. Figures below, if any, are those of the model "
        "before.\n"
    )
    card = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else f"# {origin}, {scheme.name}\n"
    head = re.match(r"---\n.*?\n---\n", card, re.DOTALL)
    end = head.end() if head else 0
    file.write_text(f"{card[:end]}\n{note}\n{card[end:].lstrip()}" if head else f"{note}\n{card}", encoding="utf-8")
