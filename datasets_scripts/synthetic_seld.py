"""The synthetic scenes that PSELDNets are trained on (Hu et al., 2024), and sets made by the synthesiser here."""

from pathlib import Path

from datasets_scripts.recordings import Part, dcase_splits, read_class_indices
from datasets_scripts.seld_builder import SELDBuilder, SELDConfig


# An id looks like `train20000_ov1_1/fold0_room0_mix00001`, without the subset if `data_dir` is one itself.
FOLDS = {"train": "0", "test": "1", "validation": "2"}
SPLITS = {split: f"(.*/)?{pattern}" for split, pattern in dcase_splits(FOLDS).items()}


def _part(form: str) -> Part:
    return Part(audio=(form,), labels=("metadata",), splits=SPLITS, optional=("validation",), in_subsets=True)


class SyntheticSELD(SELDBuilder):
    """Splits `train` (fold 0), `test` (fold 1) and, in sets made here, `validation` (fold 2).

    The classes are read from `cls_indices*.tsv` beside or in the subsets; the sampling rate is that of the recordings.

    The configuration `sum` is the dry mono mix of the events.
    """

    BUILDER_CONFIGS = tuple(
        SELDConfig(name=form, parts=(_part(form),), sampling_rate=None, num_channels=num_channels)
        for form, num_channels in (("foa", 4), ("mic", 4), ("sum", 1))
    )

    def _class_names(self, data_dir: Path) -> list[str]:
        return read_class_indices(data_dir)
