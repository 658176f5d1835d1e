"""Learn the answers of an audio tagger alongside SELD, from the same scenes.

A teacher is a Python module with `Teacher`, a class or function that is called without arguments and returns an object

- with the attributes `sampling_rate` (Hz), `patch_seconds` and `hop_seconds`: patch k of a waveform begins at
  k * hop_seconds and lasts patch_seconds;
- that is called with mono waveforms (batch, samples) at that rate and returns their embeddings (batch, patches, width)
  and the logits of its classes (batch, patches, classes), as float tensors on the device of the waveforms.

Everything else, such as computing a log-mel spectrogram and loading weights, is up to the module:

```python
class Teacher(torch.nn.Module):
    sampling_rate, patch_seconds, hop_seconds = 16000, 0.975, 0.48  # 96 frames every 10 ms, with windows of 25 ms

    def __init__(self):
        super().__init__()
        self.network = load_my_tagger("weights.npz")

    def forward(self, waveforms):
        patches = my_log_mel(waveforms).unfold(1, 96, 48)  # (batch, patches, bins, frames)
        return self.network(patches)  # embeddings, logits
```

The network learns the answers as in Beyer et al., "Knowledge distillation: A good teacher is patient and consistent"
(CVPR 2022). The teacher hears the sound pressure (the first channel) of each scene before augmentation.
"""

import importlib
import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from math import gcd
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from modeling_pseldnet.audio import Resampler
from modeling_pseldnet.events import FRAME_SECONDS
from modeling_pseldnet.inference import in_evaluation_mode
from modeling_pseldnet.keywords import in_one_line
from modeling_pseldnet.modeling_pseldnet import PSELDNetForSELD

from .recipes import REQUIRED, Recipe


# Standardised embeddings are clipped to this, as a rare large one would dominate all others.
MOST_DEVIATIONS = 8.0
# Smallest deviation to divide by, as a share of the mean one, so that a number that hardly varies is not blown up.
LEAST_DEVIATION = 0.3
# Ridge penalty of the regressions that initialise the heads, relative to the variance of their input: weaker ones fit
# the few scenes with weights so large that they dominate the encoder's gradients.
RIDGE = 0.1


class Teacher(Protocol):
    """The object that a teacher module provides; see above."""

    sampling_rate: int
    patch_seconds: float
    hop_seconds: float

    def __call__(self, waveforms: Tensor) -> tuple[Tensor, Tensor]: ...


class Answers(NamedTuple):
    """The answers of a teacher for each patch: (batch, patches, width) and (batch, patches, classes)."""

    embedding: Tensor
    logits: Tensor


def read_teacher(recipe: Recipe) -> Teacher | None:
    """Load the teacher of a recipe, if it has one.

    Raises:
        ValueError: it is required but missing, is not a teacher, or does not fit PEFT or the augmentation.
    """
    if recipe.teacher.module is None:
        return None
    if recipe.teacher.module == REQUIRED:
        raise ValueError(
            "teacher.module is missing: give a Python file with a Teacher (see training/teacher.py); with"
            " teacher.module=null, only the labels are learnt"
        )
    if recipe.peft is not None:
        raise ValueError("a teacher works with whole models only: set peft or teacher.module to null")
    for method in ("wav_mix", "track_mix"):
        if (recipe.augmentation or {}).get(method) is not None:
            raise ValueError(
                f"augmentation.{method} mixes scenes, but a teacher hears them one by one: set it to null"
            )
    return load_teacher(recipe.teacher.module)


def load_teacher(module: str) -> Teacher:
    """Load the teacher of a module, given as the path of a Python file or an importable name.

    Raises:
        ValueError: there is no such module, it fails, or its teacher lacks something.
    """
    try:
        made = _import(module).Teacher()
    except Exception as error:
        # Code of others may fail in any way.
        raise ValueError(f"teacher.module {module}: {type(error).__name__}: {in_one_line(error)}") from error
    for name in ("sampling_rate", "patch_seconds", "hop_seconds"):
        value = getattr(made, name, None)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise ValueError(f"teacher.module {module}: Teacher().{name} must be a number above 0, not {value!r}")
    if not callable(made):
        raise ValueError(f"teacher.module {module}: Teacher() must be callable with waveforms (batch, samples)")
    return made


def _import(module: str):
    path = Path(module).expanduser()
    if path.suffix != ".py":
        return importlib.import_module(module)
    spec = importlib.util.spec_from_file_location(f"teacher_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


class WindowTeacher:
    """A teacher for the windows of a data set.

    Args:
        teacher: see [`load_teacher`].
        sampling_rate: sampling rate of the windows, Hz.
        window_seconds: length of the windows.
        device: device of the windows.

    Raises:
        ValueError: its answers are invalid.
    """

    def __init__(
        self, teacher: Teacher, sampling_rate: int, window_seconds: float, device: str | torch.device = "cpu"
    ):
        self.teacher = teacher
        if isinstance(self.teacher, nn.Module):
            self.teacher.to(device).eval().requires_grad_(False)
        divisor = gcd(sampling_rate, self.teacher.sampling_rate)
        rates = sampling_rate // divisor, self.teacher.sampling_rate // divisor
        self.resample: Callable[[Tensor], Tensor] = nn.Identity()
        if rates != (1, 1):
            self.resample = Resampler(*rates)
            self.resample.filters = self.resample.filters.to(device)
        silence = torch.zeros(2, 1, round(window_seconds * sampling_rate), device=device)
        try:
            answers = self(silence)
            self._check(answers, window_seconds)
        except Exception as error:
            # Code of others may fail in any way.
            raise ValueError(f"the teacher {type(teacher).__name__}: {in_one_line(error)}") from error
        self.num_patches, self.width = answers.embedding.shape[1:]
        self.num_classes = answers.logits.shape[2]

    def _check(self, answers: Answers, window_seconds: float) -> None:
        for name, value in answers._asdict().items():
            if not isinstance(value, Tensor) or value.ndim != 3 or len(value) != 2 or not value.is_floating_point():
                what = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"its {name} of two waveforms must be floats of shape (2, patches, …), not {what}")
        patches = answers.embedding.shape[1], answers.logits.shape[1]
        most = int(window_seconds / self.teacher.hop_seconds) + 1
        if len(set(patches)) > 1 or not 1 <= patches[0] <= most:
            raise ValueError(
                f"it returns {' and '.join(map(str, dict.fromkeys(patches)))} patches for {window_seconds:g} s:"
                f" expected the same number in both answers, 1 to {most} at hop_seconds {self.teacher.hop_seconds:g}"
            )

    @torch.no_grad()
    def __call__(self, waveform: Tensor) -> Answers:
        """Answer windows (batch, channels, samples), from their first channel, or from the mean of stereo channels."""
        heard = waveform.mean(1) if waveform.shape[1] == 2 else waveform[:, 0]
        return Answers(*self.teacher(self.resample(heard)))

    def patch_weights(self, window_frames: int) -> Tensor:
        """Return the weight of each label frame in each patch, (patches, window_frames); rows sum to 1."""
        begin = torch.arange(self.num_patches, dtype=torch.float64)[:, None] * self.teacher.hop_seconds
        frame = torch.arange(window_frames, dtype=torch.float64) * FRAME_SECONDS
        end = torch.minimum(begin + self.teacher.patch_seconds, frame + FRAME_SECONDS)
        # Due to rounding, a last patch may begin after the last frame.
        shared = (end - torch.maximum(begin, frame)).clamp(min=0) + 1e-9
        return (shared / shared.sum(1, keepdim=True)).float()


class TeacherHeads(nn.Module):
    """Linear layers that predict a teacher's answers from frame embeddings averaged over each patch and normalised.

    Args:
        teacher: the teacher whose answers they learn.
        width: size of the embeddings of label frames.
        window_frames: label frames per window.
    """

    file_name = "teacher_heads.pt"

    def __init__(self, teacher: WindowTeacher, width: int, window_frames: int):
        super().__init__()
        self.register_buffer("patch_weights", teacher.patch_weights(window_frames))
        self.register_buffer("mean", torch.zeros(teacher.width))
        self.register_buffer("deviation", torch.ones(teacher.width))
        self.embedding = nn.Linear(width, teacher.width)
        self.logits = nn.Linear(width, teacher.num_classes)

    def pool(self, embeddings: Tensor) -> Tensor:
        """Pool embeddings of label frames (batch, frames, width) into patches (batch, patches, width)."""
        pooled = self.patch_weights @ embeddings.float()
        return nn.functional.layer_norm(pooled, pooled.shape[-1:])

    def losses(self, embeddings: Tensor, answers: Answers) -> dict[str, Tensor]:
        """Return the mean squared error of the standardised embeddings and the cross-entropy of the classes."""
        pooled = self.pool(embeddings)
        return {
            "embedding": nn.functional.mse_loss(self.embedding(pooled), self.standardised(answers.embedding)),
            "logits": nn.functional.binary_cross_entropy_with_logits(
                self.logits(pooled), answers.logits.float().sigmoid()
            ),
        }

    def standardised(self, embedding: Tensor) -> Tensor:
        """Standardise a teacher's embeddings, so that all of their numbers vary alike."""
        return ((embedding.float() - self.mean) / self.deviation).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)

    @torch.no_grad()
    def begin(self, embeddings: Tensor, answers: Answers) -> None:
        """Initialise the heads by ridge regression of the answers on frame embeddings (batch, frames, width).

        Randomly initialised heads would at first distort the encoder.
        """
        deviation, self.mean[:] = torch.std_mean(answers.embedding.float().flatten(0, 1), dim=0)
        self.deviation[:] = deviation.clamp(min=LEAST_DEVIATION * float(deviation.mean()) + 1e-6)
        pooled = self.pool(embeddings).flatten(0, 1)
        centre = pooled.mean(0)
        centred = pooled - centre
        strength = RIDGE * len(centred) * centred.var(0).mean()
        gram = centred.T @ centred + strength * torch.eye(len(centre), device=centre.device)
        for head, target in ((self.embedding, self.standardised(answers.embedding)), (self.logits, answers.logits)):
            target = target.float().flatten(0, 1)
            head.weight[:] = torch.linalg.solve(gram, centred.T @ (target - target.mean(0))).T
            head.bias[:] = target.mean(0) - head.weight @ centre


class Distillation:
    """Distillation from a teacher: additional heads of a model in training, and their losses alongside its own.

    Args:
        teacher: the teacher whose answers the model learns.
        embedding_weight, logits_weight: weights of the two losses.
    """

    def __init__(self, teacher: WindowTeacher, embedding_weight: float, logits_weight: float):
        self.teacher = teacher
        self.weights = {"embedding": embedding_weight, "logits": logits_weight}
        self._heard: Tensor | None = None
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        self._count = 0

    def attach(self, model: nn.Module) -> None:
        """Add the heads to a model, which trains them with its own but does not save them.

        Raises:
            ValueError: the model is an adapter.
        """
        if not isinstance(model, PSELDNetForSELD):
            raise ValueError("a teacher works with whole models only: set peft or teacher.module to null")
        config, encoder = model.config, model.pseldnet
        window = torch.zeros(1, config.num_channels, encoder.max_frames, config.num_mel_bins, device=model.device)
        with torch.no_grad(), in_evaluation_mode(encoder):
            _, window_frames, width = encoder(window).last_hidden_state.shape
        self.heads = TeacherHeads(self.teacher, width, window_frames).to(model.device)
        model.teacher_heads = self.heads
        unsaved = {f"teacher_heads.{name}" for name in self.heads.state_dict()}
        model._keys_to_ignore_on_save = unsaved.union(model._keys_to_ignore_on_save or ())
        encoder.register_forward_pre_hook(self._ask, with_kwargs=True)
        encoder.register_forward_hook(self._hear)

    @staticmethod
    def _ask(encoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, kwargs | {"output_embeddings": True} if encoder.training else kwargs

    def _hear(self, encoder: nn.Module, args: tuple, output) -> None:
        if encoder.training:
            self._heard = output.last_hidden_state

    def loss(self, answers: Answers) -> Tensor:
        """Return the sum of the weighted losses for the model's last input."""
        losses = self.heads.losses(self._heard, answers)
        self._heard = None
        self._count += 1
        for name, value in losses.items():
            self._sums[name] = self._sums[name].to(value.device) + value.detach()
        return sum(self.weights[name] * value for name, value in losses.items())

    def take_means(self) -> dict[str, float]:
        """Return the mean unweighted losses by name since the last call."""
        means = {f"loss_{name}": float(value) / self._count for name, value in self._sums.items()}
        self._sums.clear()
        self._count = 0
        return means

    def save(self, folder: str | os.PathLike) -> None:
        """Save the heads to a checkpoint."""
        torch.save(self.heads.state_dict(), Path(folder) / TeacherHeads.file_name)

    def load(self, folder: str | os.PathLike) -> None:
        """Load the heads from a checkpoint.

        Raises:
            ValueError: the checkpoint has none, or those of another teacher.
        """
        try:
            self.heads.load_state_dict(torch.load(Path(folder) / TeacherHeads.file_name, map_location="cpu"))
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"checkpoint {folder} was not trained with this teacher ({in_one_line(error)}): choose another"
            ) from None
