"""L3DAS22 task 2: sound events in one room, recorded by two FOA microphones (Guizzo et al., ICASSP 2022)."""

import csv
from pathlib import Path

import numpy as np

from datasets_scripts.recordings import Part
from datasets_scripts.seld_builder import SELDBuilder, SELDConfig
from modeling_pseldnet.events import FRAME_SECONDS, Events, vector_to_direction


COLUMNS = ("File", "Start", "End", "Class", "X", "Y", "Z")


def _part(microphones: str) -> Part:
    name = rf"(?P<labels>split(?P<fold>{{}})_ov\d_\d+)_[{microphones}]"
    return Part(
        audio=("data", "data_train", "data_test"),
        labels=("labels", "labels_train", "labels_test"),
        splits={"train": name.format("[0-4]"), "test": name.format("5")},
        ignored=r"split\d_ov\d_\d+_[AB]",
    )


class L3DAS22(SELDBuilder):
    """Splits `train` (0 to 4, the challenge's training and development sets) and `test` (5).

    The configuration selects the recordings of microphone `A`, `B`, or `both`. Positions are relative to microphone A.
    """

    BUILDER_CONFIGS = tuple(
        SELDConfig(name=name, parts=(_part(microphones),), sampling_rate=32000)
        for name, microphones in (("A", "A"), ("B", "B"), ("both", "AB"))
    )
    CLASS_NAMES = (
        "Chink_and_clink",
        "Computer_keyboard",
        "Cupboard_open_or_close",
        "Drawer_open_or_close",
        "Female_speech_and_woman_speaking",
        "Finger_snapping",
        "Keys_jangling",
        "Knock",
        "Laughter",
        "Male_speech_and_man_speaking",
        "Printer",
        "Scissors",
        "Telephone",
        "Writing",
    )

    def _read_events(self, path: Path) -> Events:
        """Read one source per row: start and end in seconds, rounded to frames, and position in metres."""
        with open(path, encoding="utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        if tuple(cell.strip() for cell in header) != COLUMNS:
            raise ValueError(f"{path}, line 1: expected the header {','.join(COLUMNS)}")
        parts = []
        for track, row in enumerate(rows):
            where = f"{path}, line {track + 2}"
            if not row:
                continue
            if len(row) != len(COLUMNS):
                raise ValueError(f"{where}: {len(row)} columns, expected {len(COLUMNS)}")
            class_name = row[3].strip()
            if class_name not in self.class_names:
                raise ValueError(f"{where}: {class_name!r} is not a class of L3DAS22")
            try:
                start, end, *position = (float(row[column]) for column in (1, 2, 4, 5, 6))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if not (0 <= start <= end < np.inf and np.isfinite(position).all()):
                raise ValueError(f"{where}: start, end and position must be finite, and 0 <= start <= end")
            first, last = np.floor(np.array([start, end]) / FRAME_SECONDS + 0.5).astype(int)
            frame = np.arange(first, max(first + 1, last))
            azimuth, elevation = vector_to_direction(position)
            columns = (self.class_names.index(class_name), track, azimuth, elevation, np.linalg.norm(position))
            parts.append(Events(frame, *(np.full(len(frame), value) for value in columns)))
        return Events.concatenate(parts).sort()
