"""The synthetic scenes on which PSELDNets are trained (Hu et al., 2024), and sets made by the synthesiser here."""

from pathlib import Path

from datasets_scripts.recordings import Part, dcase_splits, read_class_indices
from datasets_scripts.seld_builder import SELDBuilder, SELDConfig


# Ids are such as `train20000_ov1_1/fold0_room0_mix00001`, or without a subset where `data_dir` is one.
FOLDS = {"train": "0", "test": "1", "validation": "2"}
SPLITS = {split: f"(.*/)?{pattern}" for split, pattern in dcase_splits(FOLDS).items()}


def _part(form: str) -> Part:
    return Part(audio=(form,), labels=("metadata",), splits=SPLITS, optional=("validation",), in_subsets=True)


class SyntheticSELD(SELDBuilder):
    """Splits `train` (fold 0), `test` (fold 1) and, of sets made here, `validation` (fold 2).

    The classes are those of `cls_indices*.tsv` beside the subsets.

    The configuration `sum` is the dry mix of the events, in one channel.
    """

    BUILDER_CONFIGS = tuple(
        SELDConfig(name=form, parts=(_part(form),), num_channels=num_channels)
        for form, num_channels in (("foa", 4), ("mic", 4), ("sum", 1))
    )

    def _class_names(self, data_dir: Path) -> list[str]:
        return read_class_indices(data_dir)
