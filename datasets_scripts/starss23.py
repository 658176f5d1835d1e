"""STARSS23: real scenes in two formats, annotated by hand and by motion capture (Shimada et al., NeurIPS 2023)."""

from datasets_scripts.recordings import dcase_parts
from datasets_scripts.seld_builder import SELDBuilder, SELDConfig


CLASS_NAMES = (
    "Female speech, woman speaking",
    "Male speech, man speaking",
    "Clapping",
    "Telephone",
    "Laughter",
    "Domestic sounds",
    "Walk, footsteps",
    "Door, open or close",
    "Music",
    "Musical instrument",
    "Water tap, faucet",
    "Bell",
    "Knock",
)


class STARSS23(SELDBuilder):
    """Splits `train` (fold 3) and `test` (fold 4) of the development set, and `eval`, which has no labels.

    STARSS22, which has no distances, can be read as well.
    """

    BUILDER_CONFIGS = tuple(
        SELDConfig(name=array, parts=dcase_parts(array, {"train": "3", "test": "4"}, eval_has_labels=False))
        for array in ("foa", "mic")
    )
    CLASS_NAMES = CLASS_NAMES
