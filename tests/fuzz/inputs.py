"""Valid inputs of every kind, and how each is broken and given to a program."""

import io
import json
import random
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file

from datasets_scripts.scenes.synthesize import main as synthesize
from modeling_pseldnet import AdapterBitConfig, PSELDNetForSELD
from modeling_pseldnet.hub_folder import model_card, save_hub_folder
from modeling_pseldnet.tools.convert import main as convert
from modeling_pseldnet.tools.evaluate_files import main as evaluate
from modeling_pseldnet.tools.predict import main as predict
from tests.fuzz.mutations import mutate_bytes, mutate_file, mutate_json, mutate_table, mutate_text, mutate_yaml
from tests.helpers import scattered, tiny_config
from training.train import main as train


RATE = 24000
CLASSES = ["bark", "bell", "door"]
SMALL = {"window_seconds": 1, "spec_size": 128, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
SCENE_RECIPE = """\
sampling_rate: 24000
scene_seconds: 1
test_fraction: 0.3
validation_fraction: 0.1
rotation: none
rooms:
  number: 1
  size: [[4, 6], [4, 6], [2.5, 3]]
  rt60: [0.2, 0.3]
  late: diffuse
  positions: 2
  paths: 1
  path_step: 0.5
  distance: [1, 2]
events:
  polyphony: {1: 1}
  gap: [0, 0.5]
  seconds: [0.2, 1]
  snr: [6, 30]
  moving: 0.5
noise:
  level: [-60, -45]
  slope: -3
"""
TRAINING_RECIPE = """\
inherits: base/default
model:
  pretrained: {model}
data:
  source: synthetic_seld
  data_dir: {data}
  cache_dir: {cache}
  config_name: foa
  train: {{split: train}}
  eval:
    split: test
    recordings: null
    fraction: 1.0
    hop_seconds: 1
augmentation:
  rotation: {{}}
schedule: {{step_epochs: 2, gamma: 0.1}}
evaluation:
  variant: dcase2023
training:
  per_device_eval_batch_size: 2
  num_train_epochs: 1
  dataloader_num_workers: 0
  use_cpu: true
"""


def write_valid_inputs(folder: Path) -> None:
    """Write one of each kind to `folder`: `audio`, `reference`, `labels.tsv`, `sounds`, `scenes`, `data`, …"""
    generator = np.random.default_rng(0)
    noise = np.outer(generator.standard_normal(2 * RATE), [0.1, 0.1, 0.0, 0.02]).astype(np.float32)
    for name in ("audio", "reference", "sounds", "data/s/foa", "data/s/metadata"):
        (folder / name).mkdir(parents=True)
    for name, options in {
        "a.wav": {}, "b.flac": {}, "c.ogg": {}, "d.amb": {"format": "WAV"}, "e.wav": {"subtype": "FLOAT"}
    }.items():  # fmt: skip
        soundfile.write(folder / "audio" / name, noise, RATE, **options)
    (folder / "audio/f.wav").write_bytes(ambisonic_wave(noise))
    rows = [f"{frame},{frame // 7 % 3},{frame % 2},{7 * frame - 60},{frame}\n" for frame in range(20)]
    for number, more in enumerate(("", ",120", ",0,1")):
        text = "".join(row.strip() + more + "\n" for row in rows)
        (folder / f"reference/fold1_room{number}_mix001.csv").write_text(text)
    (folder / "labels.tsv").write_text("".join(f"{i}\t/m/{i}\t{name}\t4\t2.5\n" for i, name in enumerate(CLASSES)))
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    for name in CLASSES:
        (folder / "sounds" / name).mkdir()
        for number in range(4):
            sound = 0.1 * generator.standard_normal(RATE // 2)
            soundfile.write(folder / "sounds" / name / f"{number}.wav", sound, RATE)
    _write_data(folder / "data", noise, rows)
    _write_models(folder)
    (folder / "scenes.yaml").write_text(SCENE_RECIPE)
    places = {"model": folder / "model", "data": folder / "data", "cache": folder / "cache"}
    (folder / "train.yaml").write_text(TRAINING_RECIPE.format(**places))
    made = [folder / "scenes/train", "--scenes", 1, "--sounds", folder / "sounds", "--recipe", folder / "scenes.yaml"]
    assert synthesize(list(map(str, made))) == 0


def _write_data(folder: Path, noise: np.ndarray, rows: list[str]) -> None:
    shutil.copy(folder.parent / "labels.tsv", folder / "cls_indices_train.tsv")
    for fold in (0, 1):
        soundfile.write(folder / f"s/foa/fold{fold}_room1_mix001.wav", noise, RATE)
        (folder / f"s/metadata/fold{fold}_room1_mix001.csv").write_text("".join(rows))


def _write_models(folder: Path) -> None:
    """Write `model`, `adapter` for it, and the published checkpoint `crnn.ckpt`, all tiny."""
    from peft import get_peft_model

    fields = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    model = scattered(PSELDNetForSELD(tiny_config(**SMALL, **fields))).eval()
    save_hub_folder(model, folder / "model", model_card(model.config, "test"))
    base = PSELDNetForSELD.from_pretrained(folder / "model")
    get_peft_model(base, AdapterBitConfig(r=2)).save_pretrained(folder / "adapter")
    crnn = PSELDNetForSELD(
        tiny_config(
            backbone="crnn",
            output_format="accdoa",
            hidden_sizes=[4] * 4,
            decoder="gru",
            decoder_layers=1,
            embed_dim=None,
            depths=None,
            num_heads=None,
        )
    )
    torch.save({"epoch": 1, "state_dict": published_names(crnn.state_dict())}, folder / "crnn.ckpt")


def published_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the entries of a small CRNN as in the published system."""
    published = {}
    for name, value in state.items():
        name = re.sub(r"^pseldnet\.encoder\.stages\.(\d)\.", lambda m: f"convs.conv_block{int(m[1]) + 1}.", name)
        name = re.sub(r"^pseldnet\.decoder\.layers\.", "decoder.decoder.", name)
        name = re.sub(r"^heads\.accdoa\.", "fc.", name)
        if match := re.fullmatch(r"pseldnet\.input_norm\.(.*)", name):
            channels = value.chunk(7) if value.ndim else [value] * 7
            published |= {f"net.scalar.{c}.{match[1]}": part.clone() for c, part in enumerate(channels)}
        else:
            published[f"net.{name}"] = value
    return published


def ambisonic_wave(samples: np.ndarray) -> bytes:
    """Encode (samples, 4) as an ambisonic WAV file, PCM 16."""
    pcm = np.round(samples.clip(-1, 1) * 32767).astype("<i2").tobytes()
    guid = struct.pack("<I", 1) + bytes.fromhex("2107d3118644c8c1ca000000")
    layout = struct.pack("<HHIIHHHHI", 0xFFFE, 4, RATE, RATE * 8, 8, 16, 22, 16, 0) + guid
    body = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", len(pcm)) + pcm
    return b"RIFF" + struct.pack("<I", len(body)) + body


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        program: the program that gets the input.
        prepare: makes a broken input in the folder `case` from a valid one; returns the program's arguments.
    """

    program: Callable[[list[str]], int]
    prepare: Callable[[Path, Path, random.Random], list]


def broken_audio(valid: Path, case: Path, generator: random.Random) -> list:
    path = shutil.copy(generator.choice(sorted((valid / "audio").iterdir())), case)
    mutate_file(Path(path), generator)
    return [path, "--model", valid / "model", "--output", case / "out", "--json"]


def odd_audio(valid: Path, case: Path, generator: random.Random) -> list:
    """Make a well-formed recording with an unusual shape, rate or scale."""
    name = generator.choice(["a.wav", "a.flac", "a.ogg", "A.WAV", "é.wav", "a.amb", "a b\n.wav"])
    channels, length = generator.choice([1, 2, 3, 4, 4, 4, 5, 8, 16]), generator.choice([0, 1, 10, 2399, RATE, 30000])
    rate = generator.choice([1, 99, 999, 1000, 8000, 11025, 16000, 22050, RATE, 44100, 48000, 96000, 192000, 655350])
    subtype = generator.choice([None, "FLOAT", "DOUBLE", "PCM_24", "PCM_U8", "MS_ADPCM", "ULAW"])
    samples = np.random.default_rng(generator.randrange(99)).standard_normal((length, channels)) * 0.1
    samples *= generator.choice([1, 1, 1, 0, 1e-30, 30, 3e4, 1e300, np.nan, np.inf])
    content = io.BytesIO()
    try:
        soundfile.write(content, samples, rate, subtype, format={".flac": "FLAC", ".ogg": "OGG"}.get(name[-5:], "WAV"))
    except (ValueError, TypeError, soundfile.LibsndfileError):
        soundfile.write(content, samples[:, :1].clip(-1, 1), RATE, format="WAV")
    (case / name).write_bytes(content.getvalue())
    given = generator.choice([case / name, case])
    options = generator.choice([[], [], ["--hop", "0.5"], ["--channel-format", "fuma"], ["--json", "--plot"]])
    return [given, "--model", valid / "model", "--output", case / "out", *options]


def broken_events(valid: Path, case: Path, generator: random.Random) -> list:
    for side in ("reference", "prediction"):
        shutil.copytree(valid / "reference", case / side)
    broken = sorted((case / generator.choice(["reference", "prediction"])).iterdir())
    mutate_file(generator.choice(broken), generator, mutate_table)
    variant = generator.choice(["dcase2023", "pseldnets", "dcase2024"])
    options = generator.choice([[], [], ["--jackknife"], ["--by", "room"], ["--num-classes", "3"]])
    scored = ["--reference", case / "reference", "--prediction", case / "prediction"]
    return [*scored, "--variant", variant, "--json", case / "scores.json", *options]


def broken_labels(valid: Path, case: Path, generator: random.Random) -> list:
    name = generator.choice(["labels.tsv", "labels.txt", "model/config.json"])
    path = Path(shutil.copy(valid / name, case))
    mutate = {".tsv": lambda *of: mutate_table(*of, "\t"), ".txt": mutate_text, ".json": mutate_json}[path.suffix]
    mutate_file(path, generator, mutate)
    folders = ["--reference", valid / "reference", "--prediction", valid / "reference"]
    return [*folders, "--labels", path, "--json", case / "scores.json"]


def _model(of: str, name: str, mutate=mutate_json) -> Callable[[Path, Path, random.Random], list]:
    def prepare(valid: Path, case: Path, generator: random.Random) -> list:
        shutil.copytree(valid / of, case / of)
        mutate_file(case / of / name, generator, mutate)
        return [valid / "audio/a.wav", "--model", case / of, "--output", case / "out"]

    return prepare


def broken_weights(valid: Path, case: Path, generator: random.Random) -> list:
    of = generator.choice(["model", "adapter"])
    shutil.copytree(valid / of, case / of)
    path = next((case / of).glob("*.safetensors"))
    if generator.random() < 0.5:
        mutate_file(path, generator)
    else:
        save_file(mutate_tensors(load_file(path), generator), path, {"format": generator.choice(["pt", "tf", "x"])})
    return [valid / "audio/a.wav", "--model", case / of, "--output", case / "out"]


def mutate_tensors(state: dict, generator: random.Random) -> dict:
    """Change the shape, type, name or values of one entry or all, duplicate them or remove them."""
    names = sorted(state) if generator.random() < 0.2 else [generator.choice(sorted(state))]
    way = generator.randrange(8)
    for name in names:
        value = state.pop(name)
        if way == 0:
            state[f"module.{name}"] = value
        elif way == 1:
            state[name] = value.flatten()[: generator.randrange(5)].clone()
        elif way == 2:
            state[name] = torch.zeros(generator.choice([(), (0,), (1, 1), (2, 3, 4, 5, 6), (100000,)]))
        elif way == 3:
            state[name] = torch.full(value.shape, generator.choice([float("nan"), float("inf"), -1e38, 0]))
        elif way == 4:
            state[name] = value.to(generator.choice([torch.float16, torch.int64, torch.bool, torch.complex64]))
        elif way == 5:
            state[name] = torch.cat([value.reshape(1, -1)] * 2)
        elif way == 6:
            state[name], state[f"{name}.more"] = value, torch.ones(3)
    return state


def broken_checkpoint(valid: Path, case: Path, generator: random.Random) -> list:
    path = case / "crnn.ckpt"
    shutil.copy(valid / "crnn.ckpt", path)
    if generator.random() < 0.5:
        mutate_file(path, generator)
    else:
        content = torch.load(path)
        content["state_dict"] = mutate_tensors(content["state_dict"], generator)
        other = generator.choice(
            [None, 3, [], {}, {"state_dict": {}}, {"state_dict": 3}, {"state_dict": {"net.a": 1}}]
        )
        torch.save(other if generator.random() < 0.2 else content, path)
    options = ["--backbone", generator.choice(["crnn", "crnn", "crnn", "htsat", "passt", "cnn14_conformer"])]
    options += [*generator.choice([[], [], ["--audioset"]]), "--labels", valid / "labels.txt"]
    options += ["--output-format", generator.choice(["accdoa", "accdoa", "accdoa", "einv2"])]
    return [path, case / "out", *options]


def broken_scene_recipe(valid: Path, case: Path, generator: random.Random) -> list:
    shutil.copy(valid / "scenes.yaml", case)
    mutate_file(case / "scenes.yaml", generator, mutate_yaml)
    return [case / "train", "--scenes", 1, "--sounds", valid / "sounds", "--recipe", case / "scenes.yaml"]


def broken_training_recipe(valid: Path, case: Path, generator: random.Random) -> list:
    shutil.copy(valid / "train.yaml", case)
    mutate_file(case / "train.yaml", generator, mutate_yaml)
    return [case / "train.yaml", "--only-evaluate", "--output-dir", case / "run"]


def broken_manifest(valid: Path, case: Path, generator: random.Random) -> list:
    shutil.copytree(valid / "scenes", case / "scenes")
    mutate_file(case / "scenes/train/manifest.json", generator, mutate_json)
    return [case / "scenes/train", "--verify", "--sounds", valid / "sounds"]


def broken_sounds(valid: Path, case: Path, generator: random.Random) -> list:
    shutil.copytree(valid / "sounds", case / "sounds")
    mutate_file(generator.choice(sorted((case / "sounds").rglob("*.wav"))), generator)
    return [case / "train", "--scenes", 1, "--sounds", case / "sounds", "--recipe", valid / "scenes.yaml"]


def broken_data(valid: Path, case: Path, generator: random.Random) -> list:
    shutil.copytree(valid / "data", case / "data")
    path = generator.choice(sorted(path for path in (case / "data").rglob("*") if path.is_file()))
    mutate_file(path, generator, {".csv": mutate_table, ".wav": mutate_bytes}.get(path.suffix, mutate_text))
    data = [f"data.data_dir={case / 'data'}", f"data.cache_dir={case / 'cache'}"]
    return [valid / "train.yaml", "--only-evaluate", "--output-dir", case / "run", "--override", *data]


# The number is the relative frequency of the kind.
KINDS: dict[str, tuple[Kind, int]] = {
    "audio": (Kind(predict, broken_audio), 4),
    "odd audio": (Kind(predict, odd_audio), 2),
    "events": (Kind(evaluate, broken_events), 4),
    "labels": (Kind(evaluate, broken_labels), 2),
    "config.json": (Kind(predict, _model("model", "config.json")), 3),
    "preprocessor_config.json": (Kind(predict, _model("model", "preprocessor_config.json")), 2),
    "adapter_config.json": (Kind(predict, _model("adapter", "adapter_config.json")), 2),
    "weights": (Kind(predict, broken_weights), 3),
    "checkpoint": (Kind(convert, broken_checkpoint), 3),
    "scene recipe": (Kind(synthesize, broken_scene_recipe), 3),
    "manifest.json": (Kind(synthesize, broken_manifest), 2),
    "sounds": (Kind(synthesize, broken_sounds), 1),
    "training recipe": (Kind(train, broken_training_recipe), 3),
    "data set": (Kind(train, broken_data), 1),
}


def check_json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))
