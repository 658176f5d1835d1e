"""TAU-NIGENS Spatial Sound Events 2021, the data of DCASE 2021 task 3 (Politis et al., DCASE Workshop 2021)."""

from datasets_scripts.recordings import dcase_parts
from datasets_scripts.seld_builder import SELDBuilder, SELDConfig


FOLDS = {"train": "[1-4]", "validation": "5", "test": "6"}


class DCASE2021(SELDBuilder):
    """The challenge's splits `train` (folds 1 to 4), `validation` (5), `test` (6) and `eval`.

    Other selections of folds add splits: `"train+validation"` is folds 1 to 5.
    """

    BUILDER_CONFIGS = tuple(
        SELDConfig(name=array, parts=dcase_parts(array, FOLDS, eval_has_labels=True)) for array in ("foa", "mic")
    )
    CLASS_NAMES = (
        "alarm",
        "crying baby",
        "crash",
        "barking dog",
        "female scream",
        "female speech",
        "footsteps",
        "knocking on door",
        "male scream",
        "male speech",
        "ringing phone",
        "piano",
    )
