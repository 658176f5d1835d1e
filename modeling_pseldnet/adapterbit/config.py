"""AdapterBit configuration, and its entry among the methods of PEFT."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from huggingface_hub import ModelCard
from peft import PeftConfig, PeftType

from ..adapters import DEFAULT_MODEL_NAME


METHOD = "ADAPTERBIT"
PREFIX = "adapterbit_"


def _extend_peft_types() -> None:
    """Add this method to `PeftType`, an enumeration that offers no way to extend it."""
    if METHOD in PeftType.__members__:
        return
    member = str.__new__(PeftType, METHOD)
    member._name_ = member._value_ = METHOD
    setattr(PeftType, METHOD, member)
    PeftType._member_names_.append(METHOD)
    PeftType._member_map_[METHOD] = PeftType._value2member_map_[METHOD] = member


_extend_peft_types()


@dataclass
class AdapterBitConfig(PeftConfig):
    r"""
    Configuration of [`AdapterBitModel`].

    Args:
        r (`int`, *optional*):
            Width of the bottlenecks. If `None`, `mlp_ratio` times the width of the adapted module.
        mlp_ratio (`float`, *optional*, defaults to 0.5):
            Ratio of the bottleneck width to the width of the adapted module.
        scale (`float` or `"learnable"`, *optional*, defaults to 0.1):
            Factor applied to a bottleneck's output. `"learnable"` starts at 0.1.
        positions (`list[str]`, *optional*, defaults to `["attention", "mlp"]`):
            Where to add bottlenecks: after the output projection of each attention layer, in parallel with each MLP.
        attention_modules (`list[str]`, *optional*, defaults to `["attention.o_proj"]`):
            Name suffixes of the output projections.
        mlp_modules (`list[str]`, *optional*, defaults to `["mlp"]`):
            Name suffixes of the MLPs.
        modules_to_save (`list[str]`, *optional*):
            Modules to train in full. If `None`, the heads of a PSELDNet.

    Raises:
        ValueError: a value is out of range; the message names it.

    Example:

    ```python
    >>> from peft import get_peft_model
    >>> from transformers import AutoModelForAudioFrameClassification
    >>> import modeling_pseldnet
    >>> from modeling_pseldnet import AdapterBitConfig

    >>> model = AutoModelForAudioFrameClassification.from_pretrained("path/or/repo")
    >>> model = get_peft_model(model, AdapterBitConfig())
    >>> model.print_trainable_parameters()
    ```
    """

    r: int | None = None
    mlp_ratio: float = 0.5
    scale: float | Literal["learnable"] = 0.1
    positions: list[str] = field(default_factory=lambda: ["attention", "mlp"])
    attention_modules: list[str] = field(default_factory=lambda: ["attention.o_proj"])
    mlp_modules: list[str] = field(default_factory=lambda: ["mlp"])
    modules_to_save: list[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType.ADAPTERBIT
        if not self.positions or not set(self.positions) <= {"attention", "mlp"}:
            raise ValueError(f"positions are {self.positions}: use 'attention', 'mlp' or both")
        if self.r is not None and self.r < 1:
            raise ValueError(f"r is {self.r}: the width of a bottleneck must be at least 1")
        if self.r is None and not self.mlp_ratio > 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}: it must be above 0")
        if isinstance(self.scale, str) and self.scale != "learnable":
            raise ValueError(f"scale is {self.scale!r}: use a number or 'learnable'")

    @property
    def target_modules(self) -> set[str]:
        """Name suffixes of all modules that get a bottleneck."""
        suffixes = {"attention": self.attention_modules, "mlp": self.mlp_modules}
        return {suffix for position in self.positions for suffix in suffixes[position]}

    def bottleneck_width(self, width: int) -> int:
        """Return the bottleneck width for a module of this width."""
        return self.r if self.r is not None else max(int(width * self.mlp_ratio), 1)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Save the configuration, and a model card that explains how to load the adapter."""
        super().save_pretrained(save_directory, **kwargs)
        self.complete_card(save_directory)

    def complete_card(self, folder: str | os.PathLike) -> None:
        """Add loading instructions to the model card in a folder, or replace it if it is PEFT's unfilled template."""
        readme = Path(folder) / "README.md"
        card = ModelCard.load(readme) if readme.exists() else ModelCard("---\nlibrary_name: peft\n---\n")
        if USAGE_HEADING in card.text:
            return
        base = self.base_model_name_or_path or "the/base/model"
        usage = USAGE.format(base="modeling_pseldnet.DEFAULT_MODEL" if base == DEFAULT_MODEL_NAME else f'"{base}"')
        # PEFT writes a template that nobody has filled in.
        card.text = usage if "[More Information Needed]" in card.text else f"{card.text.rstrip()}\n\n{usage}"
        card.save(readme)


USAGE_HEADING = "# Loading this AdapterBit adapter"
USAGE = f"""{USAGE_HEADING}

This adapter holds bottlenecks, biases, batch-norm statistics and heads for a
[PSELDNet](https://arxiv.org/abs/2411.06399). Install the package `pseldnets` to use it. Its programs and
`modeling_pseldnet.load` load the adapter by name, like any model.

To load it with PEFT, import `modeling_pseldnet` first; without that import, loading ends in `KeyError: 'ADAPTERBIT'`:

```python
import modeling_pseldnet
from peft import PeftModel
from transformers import AutoModelForAudioFrameClassification

model = AutoModelForAudioFrameClassification.from_pretrained({{base}})
model = PeftModel.from_pretrained(model, "this/repo")  # or model.load_adapter("this/repo")
```
"""
