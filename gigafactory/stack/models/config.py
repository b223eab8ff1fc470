"""A `config.json` as families read it: fields by name, faults by name, weights by dtype."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from gigafactory.stack.models.records import UnknownModel

DTYPES = ("bfloat16", "float16", "float32")


class Config:
    """A mapping that refuses a field by its name, value and what would have been right."""

    def __init__(self, fields: Mapping[str, Any]):
        self.fields = fields

    def get(self, field: str, default: Any = None) -> Any:
        """The value, or `default` where the field is missing or null."""
        value = self.fields.get(field)
        return default if value is None else value

    def count(self, field: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self.get(field, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            near = difflib.get_close_matches(field, [*self.fields], n=2)
            hint = f" (near: {', '.join(near)})" if near and field not in self.fields else ""
            raise UnknownModel(field, value, f"a whole number above 0{hint}")
        return value

    def some(self, field: str, default: int = 0) -> int:
        """A whole number, 0 allowed."""
        return self.count(field, default) if self.get(field, default) else 0

    def flag(self, field: str, default: bool = False) -> bool:
        """True or false."""
        return bool(self.get(field, default))

    def choice(self, field: str, known: Sequence[Any], default: Any = None) -> Any:
        """One of `known`; anything else would change the count, so it is refused."""
        value = self.get(field, default)
        if value not in known:
            raise UnknownModel(field, value, nearest(value, [str(one) for one in known]))
        return value

    def part(self, field: str) -> "Config":
        """A nested config."""
        value = self.get(field)
        if not isinstance(value, Mapping):
            raise UnknownModel(field, value, "a nested config")
        return Config(value)

    def words(
        self, field: str, names: Mapping[Any, str], length: int | None = None
    ) -> list[str] | None:
        """One word for each layer, as `names` calls it; None where the field is missing.

        A list that is too long is cut: some configs go on with multi-token prediction.
        """
        value = self.get(field)
        if value is None:
            return None
        if not isinstance(value, list | tuple | str):
            raise UnknownModel(field, value, "a list with a word for each layer")
        unknown = [one for one in value if not isinstance(one, str | int) or one not in names]
        if unknown:
            raise UnknownModel(field, unknown[0], ", ".join(str(name) for name in names))
        if len(value) < (length or 1):
            raise UnknownModel(field, f"{len(value)} layers", f"{length or 1} layers")
        return [names[one] for one in value[:length]]


def nearest(value: Any, known: Sequence[str]) -> str:
    """The names most like `value`, or all of them."""
    return ", ".join(difflib.get_close_matches(str(value), known, n=3, cutoff=0.5) or known)


def weight_dtypes(config: Config) -> tuple[str, str]:
    """Dtype of the linear layers and of the routed experts, as published."""
    plain = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    plain = plain if plain in DTYPES else "bfloat16"
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return plain, plain
    packed = _packed(Config(quantization))
    if config.get("expert_dtype") == "fp4":
        return packed, "mxfp4"
    # These two pack the routed experts and leave attention as it was trained.
    experts_only = packed in ("mxfp4", "int4") and _spares_attention(quantization)
    return (plain if experts_only else packed), packed


def _packed(quantization: Config) -> str:
    method = quantization.get("quant_method")
    if method in ("fp8", "mxfp4"):
        return str(method)
    algorithm = str(quantization.get("quant_algo") or quantization.get("format") or "").lower()
    if "nvfp4" in algorithm:
        return "nvfp4"
    if "fp8" in algorithm or "float-quantized" in algorithm:
        return "fp8"
    bits = {quantization.get("bits")}
    if method == "compressed-tensors":
        groups = quantization.get("config_groups", {}).values()
        bits = {(group.get("weights") or {}).get("num_bits") for group in groups}
    if bits in ({4}, {8}):
        return f"int{bits.pop()}"
    known = "fp8, mxfp4, modelopt with NVFP4 or FP8, compressed-tensors, or 4 or 8 bits"
    raise UnknownModel("quant_method", method, known)


def _spares_attention(quantization: Mapping[str, Any]) -> bool:
    spared = quantization.get("modules_to_not_convert") or quantization.get("ignore") or []
    return any("self_attn" in one for one in spared)
