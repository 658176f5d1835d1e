"""The plain Trainer of transformers with the package's collator and scores."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import EvalPrediction, Trainer, TrainingArguments

from datasets_scripts.l3das22 import L3DAS22
from datasets_scripts.segments import SegmentedDataset
from datasets_scripts.synthetic_seld import SyntheticSELD
from modeling_pseldnet import (
    AdapterBitConfig,
    DataCollatorForSELD,
    Events,
    PSELDNetFeatureExtractor,
    PSELDNetForSELD,
    SELDMetrics,
)
from modeling_pseldnet.inference import detect
from modeling_pseldnet.timeline import to_records
from modeling_pseldnet.tools.scores import seld_scores
from tests.helpers import scattered, tiny_config
from training.trainer import SELDTrainer
from training.windows import Windows


EXTRACTOR = PSELDNetFeatureExtractor()
EVENTS = Events([0, 1, 1, 4], [2, 0, 0, 1], [0, 0, 1, 0], [10, -90, 120, 0], [0, 20, -40, 60])


def network(**fields) -> PSELDNetForSELD:
    """A network for one-second windows."""
    small = {"window_seconds": 1, "spec_size": 128, "depths": [1, 1, 1, 1], "threshold": 0.2, "drop_path_rate": 0.0}
    torch.manual_seed(0)
    return scattered(PSELDNetForSELD(tiny_config(**small, **fields))).eval()


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (0.1 * generator.standard_normal((4, round(24000 * seconds)))).astype(np.float32)


def arguments(folder, **more) -> TrainingArguments:
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    return TrainingArguments(folder, save_strategy="no", **{"per_device_eval_batch_size": 3, **quiet, **more})


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A data set of recordings of 1, 2.35 and 1.5 seconds, the last of which ends in digital silence."""
    root = tmp_path_factory.mktemp("data")
    (root / "test" / "foa").mkdir(parents=True)
    (root / "test" / "metadata").mkdir()
    (root / "cls_indices_train.tsv").write_text("0\t-\tspeech\n1\t-\tfootsteps\n2\t-\tdoor\n")
    for number, seconds in enumerate((1.0, 2.35, 1.5)):
        waveform = noise(seconds, number)
        if number == 2:
            waveform[:, -9600:] = 0
        name = f"fold1_room1_mix{number:03d}"
        soundfile.write(root / "test" / "foa" / f"{name}.wav", waveform.T, 24000)
        rows = [f"{frame},{frame % 3},0,{40 * number - 30},{frame}\n" for frame in range(int(10 * seconds) - 4)]
        (root / "test" / "metadata" / f"{name}.csv").write_text("".join(rows))
    builder = SyntheticSELD(data_dir=root, cache_dir=root / "cache")
    builder.download_and_prepare()
    return builder.as_dataset(split="test")


@pytest.mark.parametrize("output_format", ["multi_accdoa", "einv2"])
@pytest.mark.parametrize("hop_seconds", [1.0, 0.5])
def test_a_plain_evaluation_gives_the_scores_of_the_projects_own(recordings, tmp_path, output_format, hop_seconds):
    model = network(output_format=output_format)
    windows = SegmentedDataset(recordings, 1.0, hop_seconds, mode="evaluation")
    names = list(model.config.id2label.values())
    own = SELDTrainer(model, arguments(tmp_path), EXTRACTOR, eval_windows=Windows(windows, names, 24000))
    expected = own.evaluate()
    plain = Trainer(
        model,
        # In one batch, the loss is the mean over all frames.
        arguments(tmp_path, per_device_eval_batch_size=len(windows)),
        data_collator=DataCollatorForSELD(EXTRACTOR, model),
        eval_dataset=windows,
        compute_metrics=SELDMetrics(model, windows, variant="pseldnets"),
    )
    found = plain.evaluate()
    scores = [f"eval_{level}{name}" for level in ("", "micro_") for name in ("ER", "F", "LE", "LR", "SELD")]
    scores.append("eval_loss")
    assert {name: found[name] for name in scores} == pytest.approx({name: expected[name] for name in scores}, abs=1e-5)
    assert 0 < found["eval_LE"] < 180


def test_windows_of_another_rate_are_resampled_to_that_of_the_model(tmp_path):
    # Taken for audio at the model's rate, it would last three quarters of its labels.
    seconds = np.arange(32000) / 32000
    waveform = np.sin(2 * np.pi * 1000 * seconds) * [[0.5], [0.2], [0.1], [0.3]]
    (tmp_path / "data_train").mkdir()
    (tmp_path / "labels_train").mkdir()
    audio = tmp_path / "data_train" / "split0_ov1_0_A.wav"
    soundfile.write(audio, waveform.T, 32000)
    labels = "File,Start,End,Class,X,Y,Z\nknock.wav,0.2,0.6,Knock,1,0,0\n"
    (tmp_path / "labels_train" / "label_split0_ov1_0.csv").write_text(labels)
    builder = L3DAS22(data_dir=tmp_path, cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    windows = SegmentedDataset(builder.as_dataset(split="train"), 1.0)
    collator = DataCollatorForSELD(EXTRACTOR, network(id2label=dict(enumerate(builder.class_names))))
    found, expected = collator([windows[0]]), collator([{"audio": str(audio), "events": windows[0]["events"]}])
    assert torch.equal(found["input_features"], expected["input_features"])
    assert torch.equal(found["labels"], expected["labels"])


def test_rows_of_a_data_set_train_with_the_trainers_defaults(recordings, tmp_path):
    rows = recordings.select([0, 0])
    model = network()
    collator = DataCollatorForSELD(EXTRACTOR, model)

    def transform(rows):
        """Compute features on the fly, for `with_transform`."""
        read = [collator([{"audio": audio, "events": None}]) for audio in rows["audio"]]
        features = [batch["input_features"][0] for batch in read]
        return {"input_features": features, "events": rows["events"]}

    losses = [
        Trainer(network(), arguments(tmp_path, max_steps=1), data_collator=collator, train_dataset=data)
        .train()
        .training_loss
        for data in (rows, rows.with_transform(transform), list(rows))
    ]
    assert losses[0] > 0
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("form", [None, "numpy", "torch"])
def test_a_data_set_may_have_any_format(form, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1).T, 24000)
    columns = FORMS["columns"](tmp_path)
    rows = Dataset.from_list([{"audio": str(tmp_path / "a.wav"), "events": columns}]).with_format(form)
    collator = DataCollatorForSELD(EXTRACTOR, network())
    expected = collator([{"audio": str(tmp_path / "a.wav"), "events": EVENTS}])
    assert torch.equal(collator([rows[0]])["labels"], expected["labels"])


def test_labels_that_are_padding_do_not_enter_the_loss():
    model = network()
    collator = DataCollatorForSELD(EXTRACTOR, model)
    rows = [{"audio": (noise(seconds, 3), 24000), "events": EVENTS} for seconds in (0.55, 1.0)]
    batch = collator(rows)
    padded = (batch["labels"] == -100).flatten(2).all(2)
    assert padded.tolist() == [[False] * 6 + [True] * 4, [False] * 10]
    assert batch["attention_mask"].shape == (2, 101)
    with torch.no_grad():
        each = [model(**collator([row])).loss.item() for row in rows]
        both = model(**batch).loss.item()
    assert both == pytest.approx((6 * each[0] + 10 * each[1]) / 16, rel=1e-5)
    changed = torch.where(batch["labels"] == -100, -100.0, batch["labels"])
    assert torch.equal(changed, batch["labels"])


def test_features_are_padded_with_their_mask_and_labels():
    model = network()
    rows = [
        {"input_features": torch.zeros(7, frames, 64), "events": EVENTS, "recording": "left alone"}
        for frames in (56, 101)
    ]
    batch = DataCollatorForSELD(EXTRACTOR, model)(rows)
    assert batch["attention_mask"].sum(1).tolist() == [56, 101]
    assert (batch["labels"] == -100).flatten(2).all(2).sum(1).tolist() == [4, 0]
    assert batch.keys() == {"input_features", "attention_mask", "labels"}


FORMS = {
    "events": lambda _: EVENTS,
    "rows": lambda _: EVENTS.to_rows(),
    "columns": lambda _: {
        "frame": EVENTS.frame.tolist(),
        "class": EVENTS.class_id.tolist(),
        "track": EVENTS.track.tolist(),
        "azimuth": EVENTS.azimuth.tolist(),
        "elevation": EVENTS.elevation.tolist(),
        "distance": None,
    },
    "attributes": lambda _: {name: column.tolist() for name, column in EVENTS.columns().items()},
    "records": lambda _: to_records(EVENTS, {0: "speech", 1: "footsteps", 2: "door"}),
    "csv": lambda folder: folder / "events.csv",
}


@pytest.mark.parametrize("form", FORMS)
def test_events_may_have_any_form(form, tmp_path):
    rows = ["0,2,0,10,0", "1,0,0,-90,20", "1,0,1,120,-40", "4,1,0,0,60"]
    (tmp_path / "events.csv").write_text("\n".join(rows))
    model = network()
    row = {"audio": {"array": noise(1.0), "sampling_rate": 24000}, "events": FORMS[form](tmp_path)}
    labels = DataCollatorForSELD(EXTRACTOR, model)([row])["labels"][0]
    assert torch.equal(labels, model.encode_labels(EVENTS, 10))


@pytest.mark.parametrize("distance", [False, True])
@pytest.mark.parametrize("output_format", ["multi_accdoa", "einv2", "seddoa"])
def test_labels_decode_to_the_events_that_they_were_made_of(output_format, distance):
    model = network(output_format=output_format, distance=distance)
    events = EVENTS.replace(distance=[1.0, np.nan, 0.5, 4.0])
    labels = model.encode_labels(events, model.num_label_frames(101)).numpy()
    found = model.output_format.decode_labels(labels)
    for name in ("frame", "class_id", "azimuth", "elevation", *["distance"] * distance):
        np.testing.assert_allclose(getattr(found, name), getattr(events.sort(), name), atol=1e-4)
    assert len(model.output_format.decode_labels(np.full_like(labels, -100))) == 0


def test_classes_of_the_data_are_matched_by_name():
    model = network()
    row = {"audio": (noise(1.0), 24000), "events": EVENTS.replace(class_id=2 - EVENTS.class_id)}
    collator = DataCollatorForSELD(EXTRACTOR, model, class_names=["door", "footsteps", "speech"])
    assert torch.equal(collator([row])["labels"][0], model.encode_labels(EVENTS, 10))
    row["events"] = to_records(EVENTS, model.config.id2label)
    assert torch.equal(collator([row])["labels"][0], model.encode_labels(EVENTS, 10))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": (noise(1.2), 24000), "events": EVENTS}, "1.20 s is longer than the model's window, 1 s: cut it"),
        ({"events": EVENTS}, "a row with events is not a recording"),
        ({"audio": (noise(1.0), 24000), "events": [[0, 3, 0, 0, 0]]}, "class 3 is not one of the model's 3 classes"),
        ({"audio": (noise(1.0), 24000), "events": {"frame": [0]}}, "columns of events lack class, azimuth, elevation"),
        ({"audio": (noise(1.0)[:3], 24000), "events": EVENTS}, "3 channels"),
    ],
)
def test_what_cannot_be_used_is_named(row, message):
    with pytest.raises(ValueError, match=message):
        DataCollatorForSELD(EXTRACTOR, network())([row])


def test_the_pipelines_answer_is_scored_in_a_line():
    import evaluate

    from modeling_pseldnet import SELD_METRIC

    model = network()
    events = detect(model, EXTRACTOR, (noise(1.0), 24000))
    answer = to_records(events, model.config.id2label)
    rows = Events.from_records(answer, model.config.label2id).to_rows()
    scores = evaluate.load(SELD_METRIC).compute(predictions=[rows], references=[events.to_rows()], num_classes=3)
    assert scores["micro"]["F"] == 1.0


def test_thresholds_of_another_number_of_classes_are_refused():
    model = network()
    model.config.threshold = [0.3, 0.4]
    labels = model.encode_labels(EVENTS, 10)[None].numpy()
    with pytest.raises(ValueError, match="2 thresholds for 3 classes"):
        SELDMetrics(model)(EvalPrediction(labels, labels))


def test_a_variant_that_cannot_be_scored_is_refused_before_training():
    with pytest.raises(ValueError, match="dcase2024 scores distances, which the model does not estimate"):
        SELDMetrics(network(), variant="dcase2024")
    assert SELDMetrics(network(distance=True), variant="dcase2024")


def test_padded_frames_are_not_scored():
    model = network(output_format="accdoa")
    outputs, labels = np.zeros((2, 10, 1, 3, 3), np.float32), np.zeros((2, 10, 1, 3, 3), np.float32)
    outputs[..., 0, 1] = labels[..., 0, 1] = 1
    labels[1, 5:] = -100
    outputs[1, 5:] = -outputs[1, 5:]
    found = SELDMetrics(model, variant="dcase2023")(EvalPrediction(predictions=outputs, label_ids=labels))
    front = Events(np.arange(10), *[np.ones(10), *[np.zeros(10)] * 3])
    expected = seld_scores([front, front[:5]], [front, front[:5]], 3)
    assert found["micro_F"] == expected["micro"]["F"] == 1.0
    windows = SimpleNamespace(recording=[0], start=[0])
    with pytest.raises(ValueError, match="2 windows were evaluated, but 1 are to be scored"):
        SELDMetrics(model, windows)(EvalPrediction(outputs, labels))


@pytest.mark.parametrize("begin", [0, 30])
def test_windows_of_a_recording_are_scored_in_any_order_and_from_any_frame(begin):
    model = network(output_format="accdoa")
    labels = np.zeros((3, 10, 1, 3, 3), np.float32)
    for window in range(3):
        labels[window, :, 0, 0, window] = 1
    for order in ([0, 1, 2], [1, 2, 0]):
        windows = SimpleNamespace(recording=[0, 0, 0], start=[begin + 10 * window for window in order])
        found = SELDMetrics(model, windows)(EvalPrediction(labels[order], labels[order]))
        assert (found["micro_F"], found["micro_ER"]) == (1.0, 0.0)


def test_the_collator_goes_to_other_processes_without_the_model():
    model = get_peft_model(network(), AdapterBitConfig())
    pickled = pickle.dumps(DataCollatorForSELD(EXTRACTOR, model))
    assert len(pickled) < 4 * model.num_parameters()
    rows = [{"audio": (noise(1.0), 24000), "events": EVENTS}]
    batch, expected = pickle.loads(pickled)(rows), DataCollatorForSELD(EXTRACTOR, model)(rows)
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_labels_are_not_smoothed_and_trainer_says_so(tmp_path):
    model = network()
    with pytest.warns(UserWarning, match="Label smoothing is not compatible with multi-label"):
        trainer = Trainer(
            model,
            arguments(tmp_path, label_smoothing_factor=0.1, max_steps=1),
            data_collator=DataCollatorForSELD(EXTRACTOR, model),
            train_dataset=[{"audio": (noise(1.0), 24000), "events": EVENTS}],
        )
    assert trainer.train().training_loss > 0


def test_a_card_may_be_written_before_the_model(tmp_path):
    trainer = Trainer(network(), arguments(tmp_path))
    trainer.create_model_card()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    trainer.save_model()
    assert "trust_remote_code" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("output_format", ["multi_accdoa", "einv2"])
def test_batches_that_trainer_leaves_apart_give_the_same_scores(tmp_path, output_format):
    model = network(output_format=output_format)
    rows = [
        {
            "input_features": torch.randn(7, frames, 64, generator=torch.Generator().manual_seed(frames)),
            "events": EVENTS,
        }
        for frames in (101, 56, 81, 31)
    ]
    scores = []
    for concatenated in (True, False):
        trainer = Trainer(
            model,
            arguments(tmp_path, eval_do_concat_batches=concatenated),
            data_collator=DataCollatorForSELD(EXTRACTOR, model),
            eval_dataset=rows,
            compute_metrics=SELDMetrics(model),
        )
        found = trainer.evaluate()
        scores.append({name: value for name, value in found.items() if "micro" in name})
    assert scores[0] == scores[1]


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_first_block_learns_under_lora_with_checkpointing(reentrant):
    model = network()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).train()
    model(torch.randn(1, 7, 101, 64)).accdoa.square().mean().backward()
    first = model.get_base_model().pseldnet.encoder.stages[0].blocks[0].attention.q_proj
    assert first.lora_B["default"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_takes_features_of_floats(dtype):
    model = network().to(dtype)
    assert model(torch.randn(1, 7, 101, 64)).accdoa.dtype == dtype


def test_weights_of_attention_come_by_eager_attention_and_a_warning(monkeypatch):
    from modeling_pseldnet import modeling_pseldnet

    told = []
    monkeypatch.setattr(modeling_pseldnet.logger, "warning_once", told.append)
    model, features = network(), torch.randn(1, 7, 101, 64)
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        found = model(features, output_attentions=True)
        torch.testing.assert_close(found.accdoa, model(features).accdoa, atol=1e-5, rtol=0)
    assert len(found.attentions) == 4
    assert "falling back to eager attention" in told[0]
    assert model.config._attn_implementation == "sdpa"


def test_the_pipeline_without_a_model_takes_that_of_the_package():
    from transformers import pipeline

    assert pipeline("sound-event-localization-and-detection").model.config.num_labels == 48
