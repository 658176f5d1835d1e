"""The synthetic mixtures for training the baseline of DCASE 2022 task 3 (Zenodo record 6406873)."""

from datasets_scripts.recordings import Part, dcase_splits
from datasets_scripts.seld_builder import SELDBuilder, SELDConfig
from datasets_scripts.starss23 import CLASS_NAMES


class DCASE2022Synthetic(SELDBuilder):
    """Splits `train` (fold 1) and `test` (fold 2), with the classes of STARSS22 and STARSS23."""

    BUILDER_CONFIGS = tuple(
        SELDConfig(
            name=array,
            parts=(
                Part(
                    audio=(array, f"{array}_dev"),
                    labels=("metadata", "metadata_dev"),
                    splits=dcase_splits({"train": "1", "test": "2"}),
                ),
            ),
        )
        for array in ("foa", "mic")
    )
    CLASS_NAMES = CLASS_NAMES
