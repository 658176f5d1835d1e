import numpy as np
import pytest

from modeling_pseldnet.tools.labels import class_mapping, read_labels


def test_classes_are_matched_by_name():
    mapping = class_mapping(["door", "speech"], ["speech", "footsteps", "door"])
    np.testing.assert_array_equal(mapping[[0, 1, 1, 0]], [2, 0, 0, 2])
    assert class_mapping([], ["speech"]).dtype == np.int64


def test_a_class_that_is_not_known_or_stands_twice_is_named():
    with pytest.raises(ValueError, match=r"1 of 2 classes \(bell\) are not among the others \(speech, door\)"):
        class_mapping(["bell", "door"], ["speech", "door"])
    with pytest.raises(ValueError, match="two classes are called 'door'"):
        class_mapping(["door"], ["door", "door"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "\ufeffspeech\n\ndoor\n"),
        ("table.tsv", "0\t/m/0\tspeech\t9\t1.5\n1\t/m/1\tdoor\t3\t1\n"),
        ("reversed.tsv", "1\t/m/1\tdoor\n0\t/m/0\tspeech\n"),
        ("config.json", '{"id2label": {"1": "door", "0": "speech"}}'),
    ],
)
def test_labels_are_read_from_every_kind_of_list(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name) == ["speech", "door"]
    if name == "config.json":
        assert read_labels(tmp_path) == ["speech", "door"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"0\t-\tspeech\n2\t-\tdoor\n", "class indices must be 0, 1, 2"),
        ("a.tsv", b"0\t-\tspeech\n0\t-\tdoor\n", "line 2: class 0 is 'door' here"),
        ("a.tsv", b"0\t-\tdoor\n1\t-\tdoor\n", "two classes are called 'door'"),
        ("a.txt", b"door\nbell\ndoor\n", "two classes are called 'door'"),
        ("a.csv", b"index,mid,display_name\n0,/m/0,door\n1,/m/1,bell\n", "looks comma-separated"),
        ("a.tsv", b"0\tspeech\n", "line 1: expected index, MID and label"),
        ("a.tsv", b"index\tmid\tname\n0\t-\tdoor\n", "line 1: expected index, MID and label, .* and no header"),
        ("a.txt", b"\n", "contains no labels"),
        ("a.txt", b"\xff\xfe", "not a readable list of labels"),
        ("a.json", b"[1]", "not the config of a model"),
        ("a.json", b"{", "not the config of a model"),
        ("a.json", b'{"id2label": {"0": 1}}', "a name in id2label is not text"),
    ],
)
def test_a_broken_list_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        read_labels(tmp_path / name)
