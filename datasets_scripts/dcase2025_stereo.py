"""DCASE2025 Task 3: five-second stereo clips of STARSS23 with distances and on-screen labels (arXiv 2507.12042)."""

from pathlib import Path

from datasets_scripts.recordings import Part, read_class_indices
from datasets_scripts.seld_builder import SELDBuilder, SELDConfig
from datasets_scripts.starss23 import CLASS_NAMES


NAME = r"fold(?P<fold>{folds})_room(?P<room>\d+)_mix\d+_deg\d+_start\d+"
PARTS = (
    Part(
        audio=("stereo_dev",),
        labels=("metadata_dev",),
        # Folds 1 and 2 are synthetic clips.
        splits={"train": NAME.format(folds="[123]"), "test": NAME.format(folds="4")},
        optional=("train", "test"),
    ),
    Part(
        audio=("stereo_eval",), labels=("metadata_eval",), splits={"eval": r".+"}, optional=("eval",), has_labels=False
    ),
)


class DCASE2025Stereo(SELDBuilder):
    """Splits `train` (fold 3, and the synthetic folds 1 and 2), `test` (fold 4) and `eval`, which has no labels.

    Events have the extra column `onscreen`; their azimuth is folded to the front, and their elevation is 0.
    `datasets_scripts.stereo_clips` makes such clips from first-order ambisonics. If `data_dir` holds
    `cls_indices*.tsv`, the classes are read from there.
    """

    BUILDER_CONFIGS = (SELDConfig(name="stereo", parts=PARTS, sampling_rate=None, num_channels=2),)
    CLASS_NAMES = CLASS_NAMES
    HAS_ONSCREEN = True

    def _class_names(self, data_dir: Path) -> list[str]:
        return read_class_indices(data_dir) if any(data_dir.glob("cls_indices*.tsv")) else list(CLASS_NAMES)
