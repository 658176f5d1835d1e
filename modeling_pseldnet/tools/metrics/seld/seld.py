"""`evaluate` metric for sound event localization and detection."""

import datasets
import evaluate

from modeling_pseldnet.events import Events  # From: pseldnets
from modeling_pseldnet.tools.scores import seld_scores  # From: pseldnets


_DESCRIPTION = """
Scores for sound event localization and detection, recording by recording, as the DCASE challenges (`dcase2023`,
`dcase2024`, `dcase2025`) and PSELDNets (`pseldnets`) count them.
"""

_CITATION = """
@article{politis2020overview,
    title = {Overview and evaluation of sound event localization and detection in {DCASE} 2019},
    author = {Politis, Archontis and Mesaros, Annamaria and Adavanne, Sharath and Heittola, Toni and Virtanen, Tuomas},
    journal = {IEEE/ACM Transactions on Audio, Speech, and Language Processing},
    volume = {29},
    year = {2020},
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions, references: one list of rows per recording, as in DCASE metadata: `[frame, class, track, azimuth,
        elevation]` with frames of 100 ms and angles in degrees; `dcase2024` adds the distance in metres as the sixth
        column, `dcase2025` also onscreen (0 or 1) as the seventh.
    num_classes, num_frames, variant, jackknife, groups: see `modeling_pseldnet.tools.scores.seld_scores`.

Returns:
    `dict` with `macro`, `micro` and `classwise` scores.

Examples:
    >>> rows = [[0, 3, 0, 10, 0], [1, 3, 0, 12, 0]]
    >>> seld = evaluate.load(modeling_pseldnet.SELD_METRIC)
    >>> seld.compute(predictions=[rows], references=[rows], num_classes=13)["micro"]["F"]
    1.0
"""


class SELD(evaluate.Metric):
    def _info(self):
        rows = datasets.List(datasets.List(datasets.Value("float64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": rows, "references": rows}),
            reference_urls=[
                "https://dcase.community/challenge2023/task-sound-event-localization-and-detection-evaluated-in-real-spatial-sound-scenes",
                "https://dcase.community/challenge2024/task-audio-and-audiovisual-sound-event-localization-and-detection-with-source-distance-estimation",
            ],
        )

    def _compute(self, predictions, references, **options):
        # In other metadata the seventh column is the number of sources.
        columns = 7 if options.get("variant") == "dcase2025" else 6
        references, predictions = (
            [Events.from_rows([row[:columns] for row in rows]) for rows in recordings]
            for recordings in (references, predictions)
        )
        return seld_scores(references, predictions, **options)
