"""The authors' weights in one command, from a Hub with a checkpoint in the published layout."""

import json
from functools import partial

import huggingface_hub
import pytest
import torch

from modeling_pseldnet import load_published
from modeling_pseldnet.tools.convert import main
from modeling_pseldnet.tools.published import LABELS, PUBLISHED, REPOSITORY, Published, list_published
from tests.modeling_pseldnet.hub_server import COMMIT, serve_hub


NAME = "ACCDOA-HTSAT-0.566"


@pytest.fixture(scope="module")
def repository(values, tmp_path_factory):
    """A data set repository with a checkpoint and its class list, each in a folder where the authors may put it."""
    # Of a small network, which replaces the one of that name: test_convert.py converts those.
    folder = tmp_path_factory.mktemp("published")
    (folder / "model").mkdir()
    torch.save(values.published_checkpoint("cnn8_gru-multi_accdoa-13"), folder / "model" / f"{NAME}.ckpt")
    (folder / "lists").mkdir()
    rows = "".join(f"{index}\t/m/{index}\tsound {index}\t10\t60.0\n" for index in range(13))
    (folder / "lists" / LABELS).write_text(rows)
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A function that takes another Hub, by its address, with an empty cache."""

    def take(endpoint):
        monkeypatch.setattr(huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=endpoint))
        download = partial(huggingface_hub.hf_hub_download, endpoint=endpoint, cache_dir=tmp_path / "hf")
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "hf"))

    return take


def test_a_published_model_is_downloaded_once_converted_and_kept(repository, hub, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(PUBLISHED, NAME, Published("crnn", "multi_accdoa"))
    with serve_hub(repository, REPOSITORY) as (endpoint, downloads):
        hub(endpoint)
        assert main(["--published", NAME, str(tmp_path / "model")]) == 0
        printed = capsys.readouterr().out
        assert "entries used" in printed
        assert "carry their terms" in printed
        for _ in range(2):
            model, extractor = load_published(NAME, device="cpu")
        assert model.config.name_or_path.endswith(NAME)
        assert extractor.sampling_rate == 24000
        other, _ = load_published(NAME, labels=[f"other {index}" for index in range(13)], device="cpu")
        assert other.config.id2label[3] == "other 3"
        model, _ = load_published(NAME, device="cpu")
        assert model.config.id2label[3] == "sound 3"
        assert downloads == {f"model/{NAME}.ckpt": 1, f"lists/{LABELS}": 1}
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["backbone"], config["output_format"], config["id2label"]["3"]) == (
        "crnn",
        "multi_accdoa",
        "sound 3",
    )
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"Converted from `{REPOSITORY}, model/{NAME}.ckpt, commit {COMMIT}`" in card
    assert "no licence" in card


@pytest.mark.parametrize(
    ("arguments", "files", "message"),
    [
        (["--published", "mACCDOA"], None, "no published model 'mACCDOA': choose from mACCDOA-HTSAT-0.567, "),
        (["--published", NAME], None, f"{REPOSITORY} is not on the Hub"),
        (["--published", NAME], ["model/other.ckpt"], f"no file {NAME}.ckpt: its .ckpt files are model/other.ckpt"),
        (["--published", NAME], ["README.md"], f"no file {NAME}.ckpt: no .ckpt among its 1 files"),
        (["--published", NAME], [f"model/{NAME}.ckpt"], f"no file {LABELS}: no .tsv among its 1 files; give the"),
    ],
)
def test_what_was_found_is_said_in_a_line(arguments, files, message, hub, tmp_path, capsys):
    folder = tmp_path / "repository"
    for name in files or ():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    folder.mkdir(exist_ok=True)
    with serve_hub(folder, "user/other" if files is None else REPOSITORY) as (endpoint, _):
        hub(endpoint)
        assert main([*arguments, str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_each_is(capsys):
    assert main(["--published", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PUBLISHED)
    assert lines[5].split(maxsplit=1)[1] == "htsat, einv2, aggregated loss"
    assert list_published().splitlines() == lines
