"""Render scenes in torch while a model trains on them, in batches on the device or one by one in CPU workers.

The result equals that of `render` within floating-point error. All convolutions of a batch run as one partitioned
overlap-add in the frequency domain: events are cut into blocks, each block is multiplied by the partitions of its
response, products that fall on the same block of a scene are summed, and each block is transformed back once.

`SceneBank.plan` first does what a GPU is bad at, such as playing the sounds; it needs no device and may run in
workers. `SceneBank.mix` then turns its result into sound fields.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets_scripts.scenes.arrays import CHANNELS, FLAT_HERTZ
from datasets_scripts.scenes.render import PEAK, event_signal, hum, noise_bank, noise_start
from datasets_scripts.scenes.rooms import pressure_energy
from datasets_scripts.scenes.scene_set import UNLABELLED, Scene, SceneEvent, SceneSet
from datasets_scripts.scenes.worker_pool import in_workers
from modeling_pseldnet.ambisonics import channel_rotation, yaw_rotation


# Samples in a block, and in a partition of a response.
BLOCK = 8192
# Products of spectra that a GPU computes at once; they take about 2 GB.
PAIRS_AT_ONCE = 8192

# What scenes contain before they become sound fields, as tensors on the CPU:
# - signals (samples,): the signals of all events in sequence, with a block of silence before, between and after them;
# - begin (inputs,): where in `signals` each input block begins; moving (inputs, 2): the point of the path minus the
#   event's progress along it at the block's first sample, and the progress per sample, which is 0 for static events;
# - pairs (pairs, 4): for each product, the input block, the scene, the block of the scene and the row of responses;
# - noise_start, noise_level, noise_slope (scenes,); hum (scenes, 4, a tenth of a second); turn (scenes, 4, 4).
ScenePlan = dict[str, Tensor]


@dataclass
class _Path:
    """Where a path's responses are: row `first + point * partitions + partition`; `energy` is (points,)."""

    first: int
    partitions: int
    energy: np.ndarray


class SceneBank:
    """Render the scenes of a set from responses of all rooms, sounds and noise in memory.

    Args:
        scene_set: the scenes; the responses of its rooms must fit into memory (see the recipe `on_the_fly`).
        array: `"foa"` or `"mic"`.
        device: where to render.
        progress: whether to show a progress bar while the responses are computed.
        num_workers: processes that compute responses and read sounds. Defaults to 0, which uses the current process.

    Raises:
        ValueError: responses or sounds exceed the memory, or the array is not `"foa"`, but scenes are rotated or
            responses measured.
    """

    def __init__(
        self,
        scene_set: SceneSet,
        array: str = "foa",
        device: str | torch.device = "cpu",
        progress: bool = False,
        num_workers: int = 0,
    ):
        scene_set.recipe.check_array(array)
        self.scene_set, self.array, self.device = scene_set, array, torch.device(device)
        self.samples = scene_set.recipe.scene_samples
        self.blocks = -(-self.samples // BLOCK)
        self._which = scene_set.source_sounds()
        self._refuse_beyond_memory()
        sounds = in_workers(self._read_sound, range(len(self._which)), num_workers)
        self.sounds = dict(zip(self._which, sounds, strict=True))
        self._paths, self._responses = self._load_responses(progress, num_workers)
        noise = torch.from_numpy(noise_bank(scene_set, array))
        self.noise_samples = noise.shape[1]
        repeats = 1 + -(-self.samples // self.noise_samples)
        self._noise_bank = noise.repeat(1, repeats)[:, : self.noise_samples + self.samples].to(self.device)

    def _refuse_beyond_memory(self) -> None:
        """Check that sounds and responses fit, which would otherwise show after long computation."""
        rooms = [self.scene_set.room(number) for number in range(self.scene_set.number_of_rooms)]
        rows = sum(len(points) * -(-room.length // BLOCK) for room in rooms for points in room.paths)
        spectra = rows * CHANNELS * (BLOCK + 1) * torch.complex64.itemsize
        samples = sum(self.scene_set.sound(*which).length for which in self._which)
        reduced = "lower rooms.number, rooms.positions or rooms.paths, or raise rooms.path_step"
        for what, needed, device, advice in (
            (f"responses of {len(rooms)} rooms", spectra, self.device, reduced),
            (f"{len(self._which)} sounds", samples * torch.float32.itemsize, torch.device("cpu"), "use fewer"),
        ):
            if needed > (there := memory_of(device)):
                raise ValueError(
                    f"{what} take {needed / 2**30:.1f} GiB, and {device.type} has {there / 2**30:.1f} GiB of memory:"
                    f" {advice}, or make scenes with pseldnet-synthesize"
                )

    def _load_responses(self, progress: bool, num_workers: int) -> tuple[dict[tuple[int, int], _Path], Tensor]:
        """Return where each room's and path's responses are, and all spectra (rows, 4, BLOCK + 1) on the device."""
        rooms = in_workers(self._room_responses, range(self.scene_set.number_of_rooms), num_workers)
        paths, waiting, rows = {}, [], 0
        bar = tqdm(rooms, desc="responses", unit="room", total=self.scene_set.number_of_rooms, disable=not progress)
        for number, parts in enumerate(bar):
            for path, (partitions, energy) in enumerate(parts):
                paths[number, path] = _Path(rows, partitions.shape[1], energy)
                waiting.append(partitions)
                rows += partitions.shape[0] * partitions.shape[1]
        spectra = torch.empty(rows, CHANNELS, BLOCK + 1, dtype=torch.complex64, device=self.device)
        # Free responses once they are transformed, so that they are never in memory twice.
        waiting.reverse()
        first = 0
        while waiting:
            partitions = torch.from_numpy(waiting.pop()).flatten(0, 1).to(self.device)
            spectra[first : first + len(partitions)] = torch.fft.rfft(partitions, 2 * BLOCK)
            first += len(partitions)
        return paths, spectra

    def _read_sound(self, number: int) -> np.ndarray:
        return self.scene_set.read(*self._which[number])

    def _room_responses(self, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the responses (points, partitions, 4, BLOCK) and energies (points,) of each path of a room."""
        room, parts = self.scene_set.room(number), []
        for path in range(len(room.paths)):
            responses = room.responses(path, self.array)
            points, channels, samples = responses.shape
            padded = np.pad(responses, ((0, 0), (0, 0), (0, -samples % BLOCK))).reshape(points, channels, -1, BLOCK)
            parts.append((padded.swapaxes(1, 2), pressure_energy(responses, self.array)))
        return parts

    def __getstate__(self) -> dict:
        """Return the state that workers need for plans, without what is on another device."""
        left_out = () if self.device.type == "cpu" else ("_responses", "_noise_bank")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def render(self, scenes: Sequence[Scene]) -> Tensor:
        """Render the mixtures (scenes, 4, samples), float32, on the device."""
        # A CPU's cache holds one scene.
        at_once = 1 if self.device.type == "cpu" else len(scenes)
        parts = (scenes[first : first + at_once] for first in range(0, len(scenes), at_once))
        return torch.cat([self.mix(self.plan(part)) for part in parts])

    def plan(self, scenes: Sequence[Scene]) -> ScenePlan:
        """Prepare scenes for [`mix`]."""
        return join_plans([self._plan(scene) for scene in scenes])

    def _plan(self, scene: Scene) -> ScenePlan:
        silence = np.zeros(BLOCK, dtype=np.float32)
        signals, begin, count = [silence], BLOCK, 0
        inputs, pairs = [np.zeros((0, 3))], [np.zeros((0, 4), dtype=np.int64)]
        for event in scene.sources:
            path = self._paths[scene.room, event.path]
            signals += [self._signal(scene, event, path), silence]
            slope = (event.progress[1] - event.progress[0]) / event.length
            for point in event.points():
                low, high = _blocks_of(event, point)
                ahead = np.arange(low, high) * BLOCK - event.start
                beyond = point - event.progress[0] - ahead * slope
                inputs.append(np.stack([begin + ahead, beyond, np.full(len(ahead), slope)], axis=1))
                row, part = np.divmod(np.arange(len(ahead) * path.partitions), path.partitions)
                response = path.first + point * path.partitions + part
                pairs.append(np.stack([count + row, 0 * row, low + row + part, response], axis=1))
                count += len(ahead)
            begin += event.length + BLOCK
        inputs, pairs = np.concatenate(inputs), np.concatenate(pairs)
        arrays = {
            "signals": np.concatenate(signals),
            "begin": inputs[:, 0].astype(np.int64),
            "moving": inputs[:, 1:].astype(np.float32),
            "pairs": pairs[pairs[:, 2] < self.blocks],
            **self._surroundings(scene),
        }
        return {name: torch.from_numpy(value) for name, value in arrays.items()}

    def _signal(self, scene: Scene, event: SceneEvent, path: _Path) -> np.ndarray:
        level = np.sqrt(path.energy[event.points()].mean())
        sound = self.sounds[event.sound, event.class_id != UNLABELLED]
        signal = event_signal(event, sound, self.scene_set.recipe.sampling_rate)
        return signal * np.float32(scene.level(event.snr) / level)

    def _surroundings(self, scene: Scene) -> dict[str, np.ndarray]:
        recipe = self.scene_set.recipe
        level = 0.0 if scene.noise_level is None else 10 ** (scene.noise_level / 20)
        found = {
            "noise_start": np.array([noise_start(scene, self.noise_samples)]),
            "noise_level": np.array([level], dtype=np.float32),
        }
        if scene.noise_slope is not None:
            found["noise_slope"] = np.array([scene.noise_slope])
        if recipe.noise.hum:
            silence = np.zeros((CHANNELS, recipe.sampling_rate // 10), dtype=np.float32)
            found["hum"] = (silence if scene.hum is None else hum(scene, self.array, recipe.sampling_rate))[None]
        if recipe.rotation != "none":
            found["turn"] = channel_rotation(yaw_rotation([scene.yaw])).astype(np.float32)
        return found

    def mix(self, plan: ScenePlan) -> Tensor:
        """Render the mixtures (scenes, 4, samples), float32, on the device from the result of [`plan`]."""
        plan = {name: value.to(self.device, non_blocking=True) for name, value in plan.items()}
        num_scenes = len(plan["noise_level"])
        spectra = torch.zeros(num_scenes * self.blocks, CHANNELS, BLOCK + 1, dtype=torch.complex64, device=self.device)
        if len(plan["pairs"]):
            self._add_events(spectra, plan)
        pieces = torch.fft.irfft(spectra, 2 * BLOCK).unflatten(0, (num_scenes, self.blocks))
        pieces[:, 1:, :, :BLOCK] += pieces[:, :-1, :, BLOCK:]
        mixture = pieces[..., :BLOCK].transpose(1, 2).flatten(2)[..., : self.samples] + self._noise(plan)
        if "turn" in plan:
            mixture = plan["turn"] @ mixture
        peak = mixture.abs().amax(dim=(1, 2), keepdim=True)
        return mixture * (PEAK / peak.clamp(min=PEAK))

    def _add_events(self, spectra: Tensor, plan: ScenePlan) -> None:
        """Add the events to the spectra of the scenes' blocks (scenes * blocks, 4, BLOCK + 1)."""
        source, scene, block, response = plan["pairs"].unbind(1)
        inputs, output = self._input_spectra(plan), scene * self.blocks + block
        if self.device.type == "cpu":
            for n, into, row in zip(source.tolist(), output.tolist(), response.tolist(), strict=True):
                spectra[into].addcmul_(inputs[n], self._responses[row])
            return
        parts = (part.split(PAIRS_AT_ONCE) for part in (source, output, response))
        for n, into, row in zip(*parts, strict=True):
            products = inputs[n, None] * self._responses[row]
            torch.view_as_real(spectra).index_add_(0, into, torch.view_as_real(products))

    def _input_spectra(self, plan: ScenePlan) -> Tensor:
        """Return the spectra (inputs, BLOCK + 1) of the signals' blocks, faded if their events move."""
        blocks = plan["signals"].unfold(0, BLOCK, 1)[plan["begin"]]
        along = torch.arange(BLOCK, device=self.device, dtype=torch.float32)
        beyond, slope = plan["moving"].split(1, dim=1)
        # A static event contributes fully to its point all the time.
        weights = torch.where(slope == 0, 1.0, (1 - (along * slope - beyond).abs()).clamp_(min=0))
        return torch.fft.rfft(blocks * weights, 2 * BLOCK)

    def _noise(self, plan: ScenePlan) -> Tensor:
        """Return noise and hum (scenes, 4, samples)."""
        noise = self._noise_bank.unfold(1, self.samples, 1)[:, plan["noise_start"]].transpose(0, 1)
        if "noise_slope" in plan:
            noise = torch.fft.irfft(torch.fft.rfft(noise) * self._colours(plan["noise_slope"]), self.samples)
        noise = noise * plan["noise_level"][:, None, None]
        if "hum" in plan:
            tenth = plan["hum"]
            noise = noise + tenth.repeat(1, 1, -(-self.samples // tenth.shape[2]))[..., : self.samples]
        return noise

    def _colours(self, slopes: Tensor) -> Tensor:
        """Return the factors of `noise_colour` for several slopes: (scenes, 1, samples // 2 + 1)."""
        rate = self.scene_set.recipe.sampling_rate
        frequencies = torch.fft.rfftfreq(self.samples, 1 / rate, dtype=torch.float64, device=self.device)
        octaves = frequencies.clamp(min=FLAT_HERTZ).log2()
        shapes = (10 ** (slopes[:, None] / 20 * octaves)).float()
        return (shapes / shapes.square().mean(1, keepdim=True).sqrt())[:, None]


def memory_of(device: torch.device) -> float:
    """Return the bytes of memory of a machine, or those that are free on a GPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def join_plans(parts: Sequence[ScenePlan]) -> ScenePlan:
    """Join the plans of several scenes into one."""
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    samples, inputs, scenes = (
        [0, *np.cumsum([len(part[name]) for part in parts])] for name in ("signals", "begin", "noise_level")
    )
    begins, pairs = (joined[name].split([len(part[name]) for part in parts]) for name in ("begin", "pairs"))
    for number in range(len(parts)):
        begins[number].add_(int(samples[number]))
        pairs[number][:, :2].add_(torch.tensor([inputs[number], scenes[number]]))
    return joined


def _blocks_of(event: SceneEvent, point: int) -> tuple[int, int]:
    """Return the first block of the scene to which a point of an event's path contributes, and one past the last."""
    slope = (event.progress[1] - event.progress[0]) / event.length
    low, high = 0.0, event.length - 1.0
    if slope:
        low, high = np.clip(sorted((point + side - event.progress[0]) / slope for side in (-1, 1)), low, high)
    return (event.start + int(low)) // BLOCK, (event.start + int(high)) // BLOCK + 1
