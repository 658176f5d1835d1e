"""The builders on folder trees in the published layouts with short generated audio, and on real annotations."""

import logging
import struct
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from datasets.exceptions import DatasetGenerationError
from datasets.table import embed_table_storage
from huggingface_hub import DatasetCard

import datasets_scripts
from datasets_scripts.dcase2021 import DCASE2021
from datasets_scripts.dcase2022_synthetic import DCASE2022Synthetic
from datasets_scripts.dcase2025_stereo import DCASE2025Stereo
from datasets_scripts.l3das22 import L3DAS22
from datasets_scripts.seld_builder import columns_to_events
from datasets_scripts.starss23 import STARSS23
from datasets_scripts.synthetic_seld import SyntheticSELD
from tests.folders import SHARED
from tests.helpers import b_format


BUILDERS = (STARSS23, DCASE2021, DCASE2022Synthetic, DCASE2025Stereo, L3DAS22, SyntheticSELD)
CARDS = sorted((Path(datasets_scripts.__file__).parent / "cards").glob("*.md"))
REAL = SHARED / "real" / "starss22" / "metadata_dev"
ROWS = "0,1,0,-30,10\n3,0,2,179,-5\n"
L3DAS_HEADER = "File,Start,End,Class,X,Y,Z\n"
L3DAS_ROWS = L3DAS_HEADER + "a.wav,0.04,0.16,Knock,1.0,1.0,0.0\n"

# For each builder and configuration, audio and labels in the layout of the zip files, then in the flattened one.
LAYOUTS = {
    (STARSS23, "foa"): {
        "fold3_room4_mix001": (
            ("foa_dev/dev-train-tau/fold3_room4_mix001.wav", "metadata_dev/dev-train-tau/fold3_room4_mix001.csv"),
            ("foa_dev/fold3_room4_mix001.wav", "metadata_dev/fold3_room4_mix001.csv"),
        ),
        "fold4_room23_mix012": (
            ("foa_dev/dev-test-sony/fold4_room23_mix012.wav", "metadata_dev/dev-test-sony/fold4_room23_mix012.csv"),
            ("foa_dev/fold4_room23_mix012.wav", "metadata_dev/fold4_room23_mix012.csv"),
        ),
        "mix001": (("foa_eval/mix001.wav", None), ("foa_eval/mix001.wav", None)),
    },
    (DCASE2021, "mic"): {
        f"fold{fold}_room1_mix001": (
            (
                f"mic_dev/dev-{part}/fold{fold}_room1_mix001.wav",
                f"metadata_dev/dev-{part}/fold{fold}_room1_mix001.csv",
            ),
            (f"mic_dev/fold{fold}_room1_mix001.wav", f"metadata_dev/fold{fold}_room1_mix001.csv"),
        )
        for fold, part in enumerate(("train", "train", "train", "train", "val", "test"), 1)
    }
    | {"mix200": (("mic_eval/mix200.wav", "metadata_eval/mix200.csv"),) * 2},
    (DCASE2022Synthetic, "foa"): {
        f"fold{fold}_room{room}_mix001": (
            (f"foa_dev/dev-train-synth/{name}.wav", f"metadata_dev/dev-train-synth/{name}.csv"),
            (f"foa/{name}.wav", f"metadata/{name}.csv"),
        )
        for fold, room in ((1, 1), (2, 9))
        for name in (f"fold{fold}_room{room}_mix001",)
    },
    (L3DAS22, "both"): {
        f"split{split}_ov2_7_{microphone}": (
            (
                f"L3DAS22_Task2_{part}/L3DAS22_Task2_{part}/data/split{split}_ov2_7_{microphone}.wav",
                f"L3DAS22_Task2_{part}/L3DAS22_Task2_{part}/labels/label_split{split}_ov2_7.csv",
            ),
            (
                f"data_{flattened}/split{split}_ov2_7_{microphone}.wav",
                f"labels_{flattened}/split{split}_ov2_7.csv",
            ),
        )
        for split, part, flattened in ((0, "train", "train"), (4, "dev", "train"), (5, "test", "test"))
        for microphone in "AB"
    },
    (SyntheticSELD, "foa"): {
        id: ((f"{subset}/foa/{name}.flac", f"{subset}/metadata/{name}.csv"),) * 2
        for id in ("train20000_ov1_1/fold0_room0_mix00001", "test360_ov3/fold1_room9_mix00002")
        for subset, name in (id.split("/"),)
    },
}


@pytest.fixture
def make_tree(tmp_path, write_audio, write_text):
    """Write the tree of a builder in one of its layouts, and return its root."""

    def make(builder, config_name, layout=0):
        root = tmp_path / "data"
        for pair in LAYOUTS[builder, config_name].values():
            audio, labels = pair[layout]
            write_audio(root / audio, sampling_rate=32000 if builder is L3DAS22 else 24000)
            if labels:
                write_text(root / labels, L3DAS_ROWS if builder is L3DAS22 else ROWS)
        if builder is SyntheticSELD:
            write_text(root / "cls_indices_train.tsv", "0\t/m/03m9d0z\tWind\t9\t80.5\n1\t/m/07pbtc8\tWalk\t3\t7\n")
            write_text(root / "cls_indices_test.tsv", "0\t/m/03m9d0z\tWind\t2\t20.5\n1\t/m/07pbtc8\tWalk\t1\t2\n")
        return root

    return make


@pytest.fixture
def starss23(make_tree):
    return make_tree(STARSS23, "foa")


@pytest.fixture
def prepare(tmp_path):
    """Build a data set and return all its splits."""

    def prepare(builder, data_dir, config_name=None, **kwargs):
        built = builder(config_name=config_name, data_dir=data_dir, cache_dir=tmp_path / "cache")
        built.download_and_prepare(**kwargs)
        return built.as_dataset()

    return prepare


@pytest.mark.parametrize("layout", [0, 1], ids=["nested", "flattened"])
@pytest.mark.parametrize(("builder", "config_name"), LAYOUTS)
def test_both_layouts_give_every_recording(builder, config_name, layout, make_tree, prepare):
    root = make_tree(builder, config_name, layout)
    splits = prepare(builder, root, config_name)
    examples = {example["id"]: example for split in splits.values() for example in split}
    assert sorted(examples) == sorted(LAYOUTS[builder, config_name])
    for id, example in examples.items():
        audio, labels = LAYOUTS[builder, config_name][id][layout]
        assert example["audio"] == {"bytes": None, "path": str(root / audio)}
        assert example["duration"] == 0.5
        assert example["num_samples"] == 0.5 * example["sampling_rate"]
        assert example["id"] in splits[example["split"]]["id"]
        assert (example["events"] is None) == (labels is None)


def test_splits_are_the_published_ones(make_tree, prepare):
    def ids(builder, config_name, layout=0):
        root = make_tree(builder, config_name, layout)
        return {name: sorted(split["id"]) for name, split in prepare(builder, root, config_name).items()}

    assert ids(DCASE2021, "mic") == {
        "train": [f"fold{fold}_room1_mix001" for fold in (1, 2, 3, 4)],
        "validation": ["fold5_room1_mix001"],
        "test": ["fold6_room1_mix001"],
        "eval": ["mix200"],
    }
    assert ids(STARSS23, "foa") == {
        "train": ["fold3_room4_mix001"],
        "test": ["fold4_room23_mix012"],
        "eval": ["mix001"],
    }
    assert ids(L3DAS22, "both") == {
        "train": [f"split{split}_ov2_7_{microphone}" for split in (0, 4) for microphone in "AB"],
        "test": ["split5_ov2_7_A", "split5_ov2_7_B"],
    }


def test_fold_and_room_come_from_the_name(starss23, prepare):
    splits = prepare(STARSS23, starss23)
    assert (splits["test"][0]["fold"], splits["test"][0]["room"]) == (4, 23)
    assert (splits["eval"][0]["fold"], splits["eval"][0]["room"]) == (None, None)


@pytest.mark.parametrize(
    ("rows", "distance"),
    [
        ("0,1,0,-30,10\n3,0,2,179,-5\n", None),
        ("0,1,0,-30,10,150\n3,0,2,179,-5,90\n", [1.5, 0.9]),
        ("0,1,0,-30,10,150,[1]\n3,0,2,179,-5,90,[1,2]\n", [1.5, 0.9]),
    ],
    ids=["5 columns", "6 columns", "7 columns"],
)
def test_events_are_the_rows_of_the_metadata(rows, distance, starss23, prepare, write_text):
    write_text(starss23 / "metadata_dev/dev-train-tau/fold3_room4_mix001.csv", rows)
    train = prepare(STARSS23, starss23)["train"]
    assert train[0]["events"] == {
        "frame": [0, 3],
        "class": [1, 0],
        "track": [0, 2],
        "azimuth": [-30.0, 179.0],
        "elevation": [10.0, -5.0],
        "distance": distance,
    }
    assert train.features["events"]["class"].feature.int2str(12) == "Knock"


def test_recording_without_any_event_has_empty_columns(starss23, prepare, write_text):
    write_text(starss23 / "metadata_dev/dev-train-tau/fold3_room4_mix001.csv", "")
    assert len(columns_to_events(prepare(STARSS23, starss23)["train"][0]["events"])) == 0


def test_l3das22_rows_become_frames_and_directions(make_tree, prepare, write_text):
    root = make_tree(L3DAS22, "both")
    labels = LAYOUTS[L3DAS22, "both"]["split0_ov2_7_A"][0][1]
    rows = "a.wav,0.04,0.16,Knock,1.0,1.0,0.0\nb.wav,0.26,0.27,Writing,-2.0,0.0,2.0\nc.wav,0.1,0.34,Knock,0,-0.5,0\n"
    write_text(root / labels, L3DAS_HEADER + rows)
    train = prepare(L3DAS22, root, "A")["train"]
    assert train["id"] == ["split0_ov2_7_A", "split4_ov2_7_A"]
    events = columns_to_events(train[0]["events"])
    classes = train.features["events"]["class"].feature
    names = [classes.int2str(int(index)) for index in events.class_id]
    assert list(zip(events.frame.tolist(), names, events.track.tolist(), strict=True)) == [
        (0, "Knock", 0),
        (1, "Knock", 0),
        (1, "Knock", 2),
        (2, "Knock", 2),
        (3, "Writing", 1),
    ]
    np.testing.assert_allclose(events.azimuth, [45, 45, -90, -90, 180])
    np.testing.assert_allclose(events.elevation, [0, 0, 0, 0, 45], atol=1e-9)
    np.testing.assert_allclose(events.distance, [2**0.5] * 2 + [0.5] * 2 + [8**0.5])


def test_synthetic_classes_come_from_the_list_beside_the_data(make_tree, prepare):
    train = prepare(SyntheticSELD, make_tree(SyntheticSELD, "foa"))["train"]
    assert train.features["events"]["class"].feature.names == ["Wind", "Walk"]


@pytest.mark.parametrize("place", ["own", "."], ids=["inside", "beside"])
def test_synthetic_subset_alone_is_a_data_set(place, tmp_path, prepare, write_audio, write_text):
    root = tmp_path / "own"
    write_audio(root / "sum/fold0_room3_mix7.wav", num_channels=1)
    write_text(root / "metadata/fold0_room3_mix7.csv", "1,0,0,5,5\n")
    write_text(tmp_path / place / "cls_indices.tsv", "0\t/m/0\tdog_bark\t1\t2.5\n")
    splits = prepare(SyntheticSELD, root, "sum")
    assert {name: split["id"] for name, split in splits.items()} == {"train": ["fold0_room3_mix7"]}
    assert (splits["train"][0]["fold"], splits["train"][0]["room"]) == (0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,/m/0,dog\n", "line 1: expected index, MID and label"),
        ("0\t/m/0\tdog\n2\t/m/2\tcat\n", "without gaps"),
        ("0\t/m/0\tdog\n0\t/m/2\tcat\n", "line 2: class 0 is 'cat' here"),
    ],
)
def test_bad_class_lists_are_named(text, message, make_tree, write_text):
    root = make_tree(SyntheticSELD, "foa")
    (root / "cls_indices_test.tsv").unlink()
    write_text(root / "cls_indices_train.tsv", text)
    with pytest.raises(ValueError, match=message):
        SyntheticSELD(data_dir=root)


@pytest.mark.parametrize("builder", BUILDERS)
def test_without_data_the_error_tells_how_to_download(builder, tmp_path):
    for kwargs in ({}, {"data_dir": tmp_path / "nowhere"}):
        with pytest.raises(FileNotFoundError, match=r"https://") as error:
            builder(**kwargs)
        assert f"{builder.__name__}(config_name=" in str(error.value)


def test_zenodo_records_and_split_zips_are_in_the_instructions():
    for builder, record in ((STARSS23, "7880637"), (DCASE2021, "5476980"), (DCASE2022Synthetic, "6406873")):
        with pytest.raises(FileNotFoundError, match=f"zenodo.org/records/{record}(?s:.*)zip -s 0"):
            builder()


def test_data_dir_that_is_no_folder_is_refused(tmp_path, write_text):
    with pytest.raises(NotADirectoryError, match=r"foa_dev\.zip"):
        STARSS23(data_dir=write_text(tmp_path / "foa_dev.zip", ""))


def test_unknown_configuration_names_the_known(starss23):
    with pytest.raises(ValueError, match="'binaural': choose one of foa, mic"):
        STARSS23(config_name="binaural", data_dir=starss23)


def test_folder_of_another_format_is_not_enough(starss23):
    with pytest.raises(
        FileNotFoundError, match=r"no recordings \(.wav, .flac\) in a folder named 'mic_dev' or 'mic_eval'"
    ):
        STARSS23(config_name="mic", data_dir=starss23)


def test_missing_evaluation_set_is_left_out_with_a_warning(starss23, prepare, caplog):
    (starss23 / "foa_eval/mix001.wav").unlink()
    assert set(prepare(STARSS23, starss23)) == {"train", "test"}
    assert "skipping split 'eval': no recordings of it in 'foa_eval'" in caplog.text


def test_audio_without_labels_is_fatal(starss23):
    (starss23 / "metadata_dev/dev-train-tau/fold3_room4_mix001.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"fold3_room4_mix001\.wav: no labels.*'metadata_dev'"):
        STARSS23(data_dir=starss23)


def test_labels_without_audio_are_left_out_with_a_warning(starss23, prepare, caplog, write_text):
    extra = write_text(starss23 / "metadata_dev/dev-train-tau/fold3_room4_mix002.csv", ROWS)
    assert len(prepare(STARSS23, starss23)["train"]) == 1
    assert f"ignoring labels without audio (.wav, .flac): {extra}" in caplog.text


def test_audio_that_belongs_to_no_split_is_left_out_with_a_warning(starss23, prepare, caplog, write_audio):
    extra = write_audio(starss23 / "foa_dev/fold9_room1_mix001.wav")
    assert len(prepare(STARSS23, starss23)["train"]) == 1
    assert f"ignoring audio whose name matches no split: {extra}" in caplog.text


def test_the_folder_of_a_form_may_lie_in_one_of_the_same_name(make_tree, prepare, tmp_path):
    root = make_tree(SyntheticSELD, "foa").rename(tmp_path / "foa")
    moved = prepare(SyntheticSELD, root.parent)
    assert len(moved["train"]) > 0
    assert all(events is not None for events in moved["train"]["events"])


def test_remains_of_unpacking_are_passed_over(starss23, prepare, caplog, write_text):
    write_text(starss23 / "__MACOSX/foa_dev/dev-train-tau/._fold3_room4_mix001.wav", "")
    write_text(starss23 / "foa_dev/.DS_Store", "")
    assert len(prepare(STARSS23, starss23)["train"]) == 1
    assert not caplog.records


def test_nested_and_flattened_copy_at_once_are_refused(starss23, write_audio):
    write_audio(starss23 / "foa_dev/fold3_room4_mix001.wav")
    with pytest.raises(ValueError, match="two files of the same recording"):
        STARSS23(data_dir=starss23)


def test_linked_folders_are_followed(starss23, prepare, tmp_path):
    (starss23 / "foa_dev").rename(tmp_path / "elsewhere")
    (starss23 / "foa_dev").symlink_to(tmp_path / "elsewhere")
    assert len(prepare(STARSS23, starss23)["train"]) == 1


def test_a_folder_is_known_by_its_link_beside_it_too(starss23, prepare):
    (starss23 / "foa_dev").rename(starss23 / "unpacked")
    (starss23 / "foa_dev").symlink_to("unpacked")
    # The same file under two names is read once.
    (starss23 / "again").mkdir()
    (starss23 / "again/foa_dev").symlink_to("../unpacked")
    assert len(prepare(STARSS23, starss23)["train"]) == 1


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ({"num_channels": 2}, ": expected 4 channels at 24000 Hz, not 2 at 24000 Hz"),
        ({"sampling_rate": 44100}, ": expected 4 channels at 24000 Hz, not 4 at 44100 Hz"),
        ({"seconds": 0}, " is empty"),
    ],
)
def test_wrong_audio_is_named(audio, message, starss23, prepare, write_audio):
    path = write_audio(starss23 / "foa_dev/dev-test-sony/fold4_room23_mix012.wav", **audio)
    with pytest.raises(DatasetGenerationError, match=f"{path}{message}"):
        prepare(STARSS23, starss23)


def test_a_set_made_here_has_one_sampling_rate_whichever_it_is(make_tree, prepare, write_audio):
    root = make_tree(SyntheticSELD, "foa")
    first, last = sorted(root.rglob("*.flac"))
    for path in (first, last):
        write_audio(path, sampling_rate=48000)
    for split in prepare(SyntheticSELD, root).values():
        assert (split[0]["sampling_rate"], split[0]["duration"]) == (48000, 0.5)
    write_audio(first, sampling_rate=24000)
    with pytest.raises(DatasetGenerationError, match=f"{first}: expected 4 channels at 48000 Hz, not 4 at 24000 Hz"):
        prepare(SyntheticSELD, root)


def test_a_file_that_says_that_it_is_fuma_is_refused_as_windows_are_read_without_its_header(starss23, prepare):
    path = starss23 / "foa_dev/dev-test-sony/fold4_room23_mix012.wav"
    path.write_bytes(b_format(np.zeros((4, 24000))))
    with pytest.raises(DatasetGenerationError, match=f"{path} is marked as FuMa"):
        prepare(STARSS23, starss23)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (0, "gives a wrong length"),
        (4000, "gives a wrong length"),
        (200_000, "truncated, shorter than its header"),
    ],
)
def test_a_file_of_another_length_than_its_header_says_is_refused(length, message, starss23, prepare):
    path = starss23 / "foa_dev/dev-test-sony/fold4_room23_mix012.wav"
    content = path.read_bytes()
    path.write_bytes(content[:40] + struct.pack("<I", length) + content[44:])
    with pytest.raises(DatasetGenerationError, match=f"{path}: .*{message}"):
        prepare(STARSS23, starss23)


def test_file_that_is_no_audio_is_named(starss23, prepare, write_text):
    path = write_text(starss23 / "foa_dev/dev-test-sony/fold4_room23_mix012.wav", "not audio")
    with pytest.raises(DatasetGenerationError, match=str(path)):
        prepare(STARSS23, starss23)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,1,0,-30,10\n1,1,0,west,10\n", "line 2: not a row of numbers"),
        ("0,1,0,-30,10\n\n1,1,0,-30\n", "line 3: 4 columns"),
        ("0,1,0,-30,10\n\n1,13,0,-30,10\n", "line 3: class index 13, but there are only 13 classes"),
        (
            "frame,class,azimuth,elevation\n0,1,-30,10\n\n1,13,-30,10\n",
            "line 4: class index 13, but there are only 13 classes",
        ),
    ],
)
def test_malformed_metadata_is_named_by_file_and_line(rows, message, starss23, prepare, write_text):
    path = write_text(starss23 / "metadata_dev/dev-train-tau/fold3_room4_mix001.csv", rows)
    with pytest.raises(DatasetGenerationError, match=f"{path}, {message}"):
        prepare(STARSS23, starss23)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the header"),
        ("a.wav,0,1,Knock,1,1,1\n", "line 1: expected the header"),
        (L3DAS_ROWS + "a.wav,0,1,Knock,1,1\n", "line 3: 6 columns, expected 7"),
        (L3DAS_ROWS + "a.wav,0,1,Sneeze,1,1,1\n", "line 3: 'Sneeze' is not a class"),
        (L3DAS_ROWS + "a.wav,0,soon,Knock,1,1,1\n", "line 3: could not convert string to float: 'soon'"),
        (L3DAS_ROWS + "a.wav,2,1,Knock,1,1,1\n", "line 3: start, end and position must be finite"),
    ],
)
def test_malformed_l3das22_labels_are_named_by_file_and_line(text, message, make_tree, prepare, write_text):
    root = make_tree(L3DAS22, "both")
    path = write_text(root / LAYOUTS[L3DAS22, "both"]["split0_ov2_7_A"][0][1], text)
    with pytest.raises(DatasetGenerationError, match=f"{path}, {message}"):
        prepare(L3DAS22, root)


def test_labels_past_the_end_of_the_audio_are_warned_of(starss23, prepare, caplog, write_text):
    write_text(starss23 / "metadata_dev/dev-train-tau/fold3_room4_mix001.csv", "5,1,0,-30,10\n")
    prepare(STARSS23, starss23)
    assert "fold3_room4_mix001.csv labels frame 5, but " in caplog.text
    assert "fold3_room4_mix001.wav ends after 5 frames" in caplog.text


def test_the_cache_notices_edited_files(starss23, prepare, write_text, write_audio):
    def first_events():
        return prepare(STARSS23, starss23)["train"][0]["events"]["azimuth"]

    def cache_dir():
        return STARSS23(data_dir=starss23, cache_dir=starss23.parent / "cache").cache_dir

    assert first_events() == [-30.0, 179.0]
    before = cache_dir()
    assert cache_dir() == before
    write_text(starss23 / "metadata_dev/dev-train-tau/fold3_room4_mix001.csv", "0,1,0,77,10\n3,0,2,179,-5\n")
    assert first_events() == [77.0, 179.0]
    edited = cache_dir()
    write_audio(starss23 / "foa_dev/dev-train-tau/fold3_room4_mix001.wav", seconds=1)
    assert len({before, edited, cache_dir()}) == 3


def test_relative_data_dir_is_that_of_the_working_directory(starss23, prepare, monkeypatch):
    monkeypatch.chdir(starss23.parent)
    assert prepare(STARSS23, "data")["train"][0]["audio"]["path"].startswith(str(starss23))


def test_processes_and_streaming_give_the_same_examples(make_tree, prepare, tmp_path):
    root = make_tree(DCASE2021, "mic")
    train = list(prepare(DCASE2021, root, "mic")["train"])
    assert len(train) == 4
    shared = DCASE2021(config_name="mic", data_dir=root, cache_dir=tmp_path / "shared")
    shared.download_and_prepare(num_proc=2)
    assert list(shared.as_dataset(split="train")) == train
    stream = shared.as_streaming_dataset(split="train")
    assert list(stream) == train
    assert stream.num_shards == len(train)


def test_parquet_holds_the_audio(starss23, tmp_path):
    builder = STARSS23(data_dir=starss23, cache_dir=tmp_path / "cache")
    builder.download_and_prepare(str(tmp_path / "parquet"), file_format="parquet")
    files = {"train": str(tmp_path / "parquet/*-train*.parquet")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"), split="train")
    original = starss23 / "foa_dev/dev-train-tau/fold3_room4_mix001.wav"
    assert loaded[0]["audio"] == {"bytes": original.read_bytes(), "path": original.name}
    assert loaded.features == builder.info.features


def test_what_push_to_hub_uploads_holds_the_audio(starss23, prepare):
    # push_to_hub maps every shard through this before the upload.
    train = prepare(STARSS23, starss23)["train"]
    embedded = train.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    original = starss23 / "foa_dev/dev-train-tau/fold3_room4_mix001.wav"
    assert embedded[0]["audio"]["bytes"] == original.read_bytes()


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_cards_have_licence_and_citation(path):
    card = DatasetCard.load(path)
    assert card.data.license
    assert card.data.license != "other" or card.data.to_dict()["license_link"].startswith("https://")
    assert "```bibtex\n@" in card.text


def test_every_builder_has_a_card_and_tells_of_it(starss23):
    assert {path.stem for path in CARDS} == {builder.__module__.rpartition(".")[2] for builder in BUILDERS}
    info = STARSS23(data_dir=starss23).info
    assert info.license == "mit"
    assert info.citation.startswith("@inproceedings{shimada2023starss23,")
    assert info.citation.endswith("}")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not here")
def test_real_annotations_of_starss22(tmp_path, prepare, caplog):
    (tmp_path / "metadata_dev").symlink_to(REAL)
    for labels in REAL.rglob("*.csv"):
        num_frames = 1 + max(int(line.split(",")[0]) for line in labels.read_text().split())
        path = tmp_path / "foa_dev" / labels.parent.name / f"{labels.stem}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sparse_silence(path, num_frames * 2400)
    with caplog.at_level(logging.WARNING):
        splits = prepare(STARSS23, tmp_path)
    assert [record.message for record in caplog.records if "eval" not in record.message] == []
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 67, "test": 54}
    assert Counter(splits["test"]["room"]) == {2: 6, 8: 9, 10: 9, 23: 14, 24: 16}

    # Counted in the CSVs with cut, sort and uniq: rows, rows per class, frames per number of events in them.
    rows, classes, polyphony = count(splits["train"])
    assert rows == 118627
    assert classes == [23393, 38570, 819, 1530, 2910, 18275, 1594, 652, 24288, 4250, 826, 1474, 46]
    assert polyphony == {1: 54224, 2: 23973, 3: 4362, 4: 704, 5: 111}
    rows, classes, polyphony = count(splits["test"])
    assert rows == 104353
    assert classes == [13827, 32194, 589, 898, 2682, 13910, 710, 313, 27291, 8655, 2068, 1171, 45]
    assert polyphony == {1: 36483, 2: 20240, 3: 6306, 4: 1903, 5: 172}


def count(examples) -> tuple[int, list[int], Counter]:
    recordings = [columns_to_events(example["events"]) for example in examples]
    classes = np.bincount(np.concatenate([events.class_id for events in recordings])).tolist()
    frames = np.concatenate([np.unique(events.frame, return_counts=True)[1] for events in recordings])
    return sum(map(len, recordings)), classes, Counter(frames.tolist())


def write_sparse_silence(path: Path, num_samples: int) -> None:
    """Write a four-channel 24-kHz WAV file of zeros that takes no space on disk."""
    size = num_samples * 8
    form = struct.pack("<IHHIIHH", 16, 1, 4, 24000, 24000 * 8, 8, 16)
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + form + b"data" + struct.pack("<I", size))
        file.truncate(44 + size)
    assert soundfile.info(str(path)).frames == num_samples
