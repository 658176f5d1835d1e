"""Renders scenes in torch while a model trains on them, in batches on the device or one by one in CPU workers.

The result is that of `render` within float error. All convolutions of a batch run as one overlap-add in the
frequency domain: the events are cut into blocks, each block is multiplied with the partitions of its response, what
falls on the same block of a scene is added up there, and each block of each scene is transformed back once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from tqdm import tqdm

from datasets_scripts.scenes.arrays import CHANNELS
from datasets_scripts.scenes.render import PEAK, event_signal, noise_bank, noise_start
from datasets_scripts.scenes.rooms import pressure_energy
from datasets_scripts.scenes.scene_set import Scene, SceneEvent, SceneSet
from modeling_pseldnet.ambisonics import channel_rotation, yaw_rotation
from modeling_pseldnet.events import FRAME_SECONDS, Events


# Samples of a block and of a partition of a response.
BLOCK = 8192


@dataclass
class _Path:
    """The responses of a path: spectra (points, partitions, 4, BLOCK + 1) on the device, and energies (points,)."""

    spectra: Tensor
    energy: np.ndarray


class SceneBank:
    """The responses of all rooms of a scene set, its sounds and its noise, in memory; renders its scenes.

    Args:
        scene_set: where scenes are from; its rooms must fit into memory (see the recipe `on_the_fly`).
        array: `"foa"` or `"mic"`.
        device: where to render.
        progress: show a progress bar while the responses are computed.
    """

    def __init__(
        self,
        scene_set: SceneSet,
        array: str = "foa",
        device: str | torch.device = "cpu",
        progress: bool = False,
    ):
        if scene_set.recipe.rotation != "none" and array != "foa":
            raise ValueError("scenes are rotated in FOA only: set rotation to 'none' for the array format 'mic'")
        self.scene_set, self.device = scene_set, torch.device(device)
        self.samples = scene_set.recipe.scene_samples
        self.sounds = {int(number): scene_set.sounds.read(number) for number in scene_set.sound_numbers()}
        self._paths: dict[tuple[int, int], _Path] = {}
        for room_number in tqdm(range(scene_set.number_of_rooms), desc="responses", unit="room", disable=not progress):
            room = scene_set.room(room_number)
            for path in range(len(room.paths)):
                responses = room.responses(path, array)
                padded = np.pad(responses, ((0, 0), (0, 0), (0, -responses.shape[2] % BLOCK)))
                partitions = torch.from_numpy(padded).to(self.device).unflatten(2, (-1, BLOCK)).transpose(1, 2)
                spectra = torch.fft.rfft(partitions, 2 * BLOCK)
                self._paths[room_number, path] = _Path(spectra, pressure_energy(responses, array))
        noise = torch.from_numpy(noise_bank(scene_set, array))
        self.noise_samples = noise.shape[1]
        repeats = 1 + -(-self.samples // self.noise_samples)
        self.noise = noise.repeat(1, repeats)[:, : self.noise_samples + self.samples].to(self.device)

    def render(self, scenes: Sequence[Scene]) -> Tensor:
        """The mixtures (scenes, 4, samples), float32, on the device."""
        # A CPU's cache holds one scene.
        at_once = 1 if self.device.type == "cpu" else len(scenes)
        return torch.cat([self._render(scenes[n : n + at_once]) for n in range(0, len(scenes), at_once)])

    def _render(self, scenes: Sequence[Scene]) -> Tensor:
        blocks = -(-self.samples // BLOCK)
        spectra = torch.zeros(len(scenes) * blocks, CHANNELS, BLOCK + 1, dtype=torch.complex64, device=self.device)
        self._add_events(spectra, scenes, blocks)
        pieces = torch.fft.irfft(spectra, 2 * BLOCK).unflatten(0, (len(scenes), blocks))
        pieces[:, 1:, :, :BLOCK] += pieces[:, :-1, :, BLOCK:]
        mixture = pieces[..., :BLOCK].transpose(1, 2).flatten(2)[..., : self.samples]
        mixture = self._rotate(mixture + self._noise(scenes), scenes)
        peak = mixture.abs().amax(dim=(1, 2), keepdim=True)
        return mixture * (PEAK / peak.clamp(min=PEAK))

    @property
    def response_bytes(self) -> int:
        """Memory that the responses take."""
        return sum(path.spectra.nbytes for path in self._paths.values())

    def labels(self, scenes: Sequence[Scene]) -> list[Events]:
        """The labels of each scene."""
        return [self.scene_set.labels(scene) for scene in scenes]

    def _add_events(self, spectra: Tensor, scenes: Sequence[Scene], blocks: int) -> None:
        """Adds the events to the spectra of the scenes' blocks (scenes * blocks, 4, BLOCK + 1)."""
        # All events one after the other, with silence between them, so that blocks can begin and end outside them.
        silence = torch.zeros(BLOCK)
        signals, inputs, runs, begin, rows_before = [silence], [], [], BLOCK, 0
        for number, scene in enumerate(scenes):
            for event in scene.events:
                path = self._paths[scene.room, event.path]
                signals += [torch.from_numpy(self._signal(scene, event, path)), silence]
                for point in event.points():
                    low, high = _blocks_of(event, point)
                    rows = np.arange(low, high)
                    ahead = rows * BLOCK - event.start
                    slope = (event.progress[1] - event.progress[0]) / event.length
                    beyond = point - event.progress[0] - ahead * slope
                    inputs.append(np.stack([begin + ahead, beyond, np.full(len(rows), slope)], axis=1))
                    for part, response in enumerate(path.spectra[point]):
                        count = min(high, blocks - part) - low
                        if count > 0:
                            runs.append((rows_before, number * blocks + low + part, count, response))
                    rows_before += len(rows)
                begin += event.length + BLOCK
        if not runs:
            return
        input_spectra = self._input_spectra(torch.cat(signals), np.concatenate(inputs))
        for first, output, count, response in runs:
            spectra[output : output + count].addcmul_(input_spectra[first : first + count, None], response)

    def _input_spectra(self, signals: Tensor, inputs: np.ndarray) -> Tensor:
        """Spectra (n, BLOCK + 1) of blocks of the signals (samples,).

        `inputs` (n, 3) tells where each begins and, for a moving event, the point of the path less the progress along
        it at the block's first sample, and the progress a sample.
        """
        begins = torch.from_numpy(inputs[:, 0].astype(np.int64)).to(self.device)
        blocks = signals.to(self.device, non_blocking=True).unfold(0, BLOCK, 1)[begins]
        if len(moving := np.flatnonzero(inputs[:, 2])):
            along = torch.arange(BLOCK, device=self.device, dtype=torch.float32)
            beyond, slope = torch.from_numpy(inputs[moving, 1:].astype(np.float32)).to(self.device).split(1, dim=1)
            blocks[torch.from_numpy(moving).to(self.device)] *= (1 - (along * slope - beyond).abs()).clamp_(min=0)
        return torch.fft.rfft(blocks, 2 * BLOCK)

    def _signal(self, scene: Scene, event: SceneEvent, path: _Path) -> np.ndarray:
        level = np.sqrt(path.energy[event.points()].mean())
        signal = event_signal(event, self.sounds[event.sound], self.scene_set.recipe.sampling_rate)
        return signal * np.float32(scene.event_level(event) / level)

    def _noise(self, scenes: Sequence[Scene]) -> Tensor | float:
        if self.scene_set.recipe.noise.level is None:
            return 0.0
        starts = [noise_start(scene, self.noise_samples) for scene in scenes]
        noise = torch.stack([self.noise[:, start : start + self.samples] for start in starts])
        levels = torch.tensor([10 ** (scene.noise_level / 20) for scene in scenes], device=self.device)
        return noise * levels[:, None, None]

    def _rotate(self, mixture: Tensor, scenes: Sequence[Scene]) -> Tensor:
        if self.scene_set.recipe.rotation == "none":
            return mixture
        turns = channel_rotation(yaw_rotation([scene.yaw for scene in scenes]))
        return torch.from_numpy(turns).to(mixture) @ mixture


def _blocks_of(event: SceneEvent, point: int) -> tuple[int, int]:
    """The first and one past the last block of the scene in which a point of an event's path has a share of it."""
    slope = (event.progress[1] - event.progress[0]) / event.length
    low, high = 0.0, event.length - 1.0
    if slope:
        low, high = np.clip(sorted((point + side - event.progress[0]) / slope for side in (-1, 1)), low, high)
    return (event.start + int(low)) // BLOCK, (event.start + int(high)) // BLOCK + 1


class OnTheFlyScenes(IterableDataset):
    """Scenes as a stream for `torch.utils.data.DataLoader`, in the form of `SegmentedDataset`, rendered on the CPU.

    Workers, and processes of a distributed run, share the scenes out among them: none is given twice. Each epoch has
    scenes of its own once `set_epoch` was called, as the Trainer does.

    Args:
        bank: on the CPU.
        count: scenes of an epoch; by default there is no end.
        first: number of the first scene.
        rank, world_size: of this process, in a distributed run.
    """

    def __init__(self, bank: SceneBank, count: int | None = None, first: int = 0, rank: int = 0, world_size: int = 1):
        if bank.device.type != "cpu":
            raise ValueError("workers render on the CPU: make the bank with device='cpu'")
        self.bank, self.count, self.first, self.rank, self.world_size = bank, count, first, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the scenes of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        worker_id, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        recipe = self.bank.scene_set.recipe
        first = self.first + self.epoch * (self.count or 0)
        index = first + self.rank * workers + worker_id
        while self.count is None or index < first + self.count:
            scene = self.bank.scene_set.scene(index)
            yield {
                "waveform": self.bank.render([scene])[0].numpy(),
                "events": self.bank.scene_set.labels(scene),
                "recording": f"scene{index}",
                "start_frame": 0,
                "num_frames": round(recipe.scene_seconds / FRAME_SECONDS),
            }
            index += workers * self.world_size
