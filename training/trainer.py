"""A `Trainer` for sound event localization and detection that augments on the device and scores whole recordings."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast, gather_object
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import EvalLoopOutput

from datasets_scripts.scenes.worker_pool import end_with_program
from modeling_pseldnet.events import FRAME_SECONDS, Events, write_csv
from modeling_pseldnet.feature_extraction_pseldnet import PSELDNetFeatureExtractor
from modeling_pseldnet.files import write_atomically
from modeling_pseldnet.hub_folder import model_card
from modeling_pseldnet.inference import Window, checked_threshold, join_windows, scored_frames
from modeling_pseldnet.keywords import counted
from modeling_pseldnet.timeline import link_tracks
from modeling_pseldnet.tools.evaluate_files import format_scores
from modeling_pseldnet.tools.scores import seld_scores
from modeling_pseldnet.tracks import PADDED_LABEL

from .augmentation import AugMix, place_mono
from .collate import collate, take_examples_apart
from .muon import muon_factory
from .saving import SavingTrainer
from .teacher import Answers, Distillation
from .windows import Windows, set_epoch


# After this many skipped updates in a row, training is taken to diverge.
MAX_SKIPPED_UPDATES = 10
# Windows from which the heads that learn a teacher's answers are initialised.
BEGIN_WINDOWS = 256
logger = logging.getLogger(__name__)


def _begin_worker(seed: Callable[[int], None], worker: int) -> None:
    end_with_program()
    seed(worker)


class TellEpoch(TrainerCallback):
    """Set the epoch of the windows, as accelerate does not with several processes or when a run resumes within one."""

    def on_epoch_begin(self, args, state, control, train_dataloader: DataLoader, **_) -> None:
        set_epoch(train_dataloader.dataset, int(state.epoch))


class DrawApart(TrainerCallback):
    """Seed each process differently, as otherwise all would draw the same augmentation and dropout."""

    def on_train_begin(self, args, state, control, **_) -> None:
        if args.process_index > 0:
            set_seed(args.seed + args.process_index)


class SELDTrainer(SavingTrainer):
    """Train a [`PSELDNetForSELD`], or a PEFT model of one, on windows and evaluate it on recordings.

    Args:
        model: the model; its feature extractor is saved with it.
        args: `transformers.TrainingArguments`; `metric_for_best_model` may be any score that `evaluate` returns.
        feature_extractor: computes features on the device of the model.
        train_windows, eval_windows: see [`load_windows`].
        augmentation: augments batches in training. Defaults to none.
        step_epochs: the learning rate is multiplied by `gamma` every `step_epochs` epochs. Defaults to never.
        variant: variant of the metrics, see `seld_scores`.
        patience: number of evaluations without a better score after which to stop. Defaults to no early stopping.
        muon_learning_rate: learning rate of the weight matrices with [`MuonAdamW`]. By default, AdamW updates all.
        distillation: what the model learns from a teacher alongside SELD, with heads that are saved in checkpoints but
            not with the model. Defaults to none.
        compute_metrics: computes additional scores from the outputs and labels of all windows, as in [`Trainer`].

    Classes are matched by name: windows and model may have them in different orders.

    Raises:
        ValueError: windows and model have different classes.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        feature_extractor: PSELDNetFeatureExtractor,
        train_windows: Windows | None = None,
        eval_windows: Windows | None = None,
        augmentation: AugMix | None = None,
        step_epochs: int | None = None,
        gamma: float = 0.1,
        variant: str = "pseldnets",
        patience: int | None = None,
        muon_learning_rate: float | None = None,
        distillation: Distillation | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
    ):
        self.window_frames = round(model.config.window_seconds / FRAME_SECONDS)
        optimizer = None
        if muon_learning_rate is not None:
            rates = {"muon_learning_rate": muon_learning_rate, "learning_rate": args.learning_rate}
            optimizer = (muon_factory, {**rates, "weight_decay": args.weight_decay})
        # All processes share the order of the windows, whatever each draws.
        args.data_seed = args.seed if args.data_seed is None else args.data_seed
        if args.ddp_find_unused_parameters is None:
            # All are used, but a teacher's heads only after the forward pass that would be searched.
            args.ddp_find_unused_parameters = False
        labels = list(model.config.id2label.values())
        train_numbers = train_windows and train_windows.class_numbers(labels)
        # Recordings of the current update, and the number of updates skipped in a row.
        self._seen: list[str] = []
        self._skipped_updates = 0
        self.distillation = distillation
        if distillation is not None:
            distillation.attach(model)
        super().__init__(
            model,
            args,
            data_collator=partial(collate, window_frames=self.window_frames, class_numbers=train_numbers),
            train_dataset=train_windows.dataset if train_windows else None,
            eval_dataset=eval_windows.dataset if eval_windows else None,
            processing_class=feature_extractor,
            compute_metrics=compute_metrics,
            callbacks=[TellEpoch(), DrawApart(), *([EarlyStoppingCallback(patience)] if patience else [])],
            optimizer_cls_and_kwargs=optimizer,
        )
        self.feature_extractor = feature_extractor
        self.augmentation = augmentation
        # If so, features are computed once and rotated, rather than computed for each copy.
        self._turns_features = (
            augmentation is not None
            and not augmentation.mixes_waveforms
            and feature_extractor.feature_type == "logmel_iv"
        )
        self.mono = train_windows is not None and train_windows.mono
        self.step_epochs, self.gamma, self.variant, self.patience = step_epochs, gamma, variant, patience
        self._eval_numbers = eval_windows and eval_windows.class_numbers(labels)
        self.scores: dict = {}
        self.predictions: dict[str, Events] = {}

    # From a batch of windows to what the model takes

    def _prepare_inputs(self, inputs: dict) -> dict[str, torch.Tensor]:
        """Turn waveforms, features or plans and events into `input_features` and `labels`, augmented in training.

        In training with a teacher, its `answers` to the sounds before augmentation are added.
        """
        inputs = super()._prepare_inputs(inputs)
        events, training, extract = inputs["events"], self.model.training, self.feature_extractor.features
        with torch.no_grad():
            if "features" in inputs:
                sounds, extract = inputs["features"].float(), None
            elif "plan" in inputs:
                sounds = self.train_dataset.bank.mix(inputs["plan"])
            elif training and self.mono:
                sounds, events = place_mono(inputs["waveform"], events, self.window_frames)
            else:
                sounds = inputs["waveform"]
            heard = sounds
            if training and self.augmentation is not None:
                if extract and self._turns_features:
                    sounds, extract = extract(sounds), None
                features, events = self.augmentation(sounds, events, self.window_frames, extract)
            else:
                features = extract(sounds) if extract else sounds
        labels = self.model.output_format.encode(events, len(features) * self.window_frames, features.device)
        labels = labels.unflatten(0, (len(features), self.window_frames))
        prepared = {"input_features": features, "labels": labels}
        if training and self.distillation is not None:
            kept = "features" in inputs
            answers = [inputs[name] for name in Answers._fields] if kept else self.distillation.teacher(heard)
            copies = len(features) // len(sounds)
            prepared["answers"] = Answers(*(part.repeat(copies, 1, 1) for part in answers))
        return prepared

    def floating_point_ops(self, inputs: dict) -> int:
        """Return 0: the inputs are waveforms, so there are no tokens to count by."""
        return 0

    # How it learns

    def get_train_dataloader(self) -> DataLoader:
        """Extend the default loader: seed its workers once by `args.seed`, as persistent ones are never seeded again.

        The workers end with the program, whatever ends it.

        Raises:
            ValueError: there is no batch to train on.
        """
        loader = super().get_train_dataloader()
        if not len(loader):
            raise ValueError(
                "dataloader_drop_last leaves no batch, as there are fewer training windows than examples in one: use a"
                " smaller per_device_train_batch_size"
            )
        base = getattr(loader, "base_dataloader", loader)
        base.generator = torch.Generator().manual_seed(self.args.seed)
        base.worker_init_fn = partial(_begin_worker, base.worker_init_fn)
        return loader

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return all parameters: the published recipes apply weight decay to every one."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Create the step schedule if `step_epochs` is given, else the one that the arguments name."""
        if self.step_epochs is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        updates = -(-len(self.get_train_dataloader()) // self.args.gradient_accumulation_steps)
        self.lr_scheduler = torch.optim.lr_scheduler.StepLR(
            optimizer or self.optimizer, self.step_epochs * updates, self.gamma
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        if self.distillation is not None and not resume_from_checkpoint:
            self._begin_distillation()
        return super().train(resume_from_checkpoint, **kwargs)

    @torch.no_grad()
    def _begin_distillation(self) -> None:
        """Initialise the heads that learn a teacher's answers from randomly chosen windows."""
        generator = torch.Generator().manual_seed(self.args.seed)
        chosen = torch.randperm(len(self.train_dataset), generator=generator)[:BEGIN_WINDOWS]
        batches = DataLoader(
            Subset(self.train_dataset, chosen.tolist()),
            batch_size=self.args.train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            worker_init_fn=end_with_program,
        )
        self.model.train()
        embeddings, answers = [], []
        for batch in batches:
            prepared = self._prepare_inputs(batch)
            embeddings.append(self.model.pseldnet(prepared["input_features"]).last_hidden_state)
            answers.append(prepared["answers"])
        self.distillation.heads.begin(torch.cat(embeddings), Answers(*map(torch.cat, zip(*answers, strict=True))))

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        """Return the SELD loss, plus that of a teacher's answers if there is one."""
        answers = inputs.pop("answers", None)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if answers is not None:
            loss = loss + self.distillation.loss(answers)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as usual, together with the losses of a teacher's answers."""
        if self.distillation is not None and "loss" in logs:
            logs |= self.distillation.take_means()
        super().log(logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.distillation is not None and self.args.should_save:
            self.distillation.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.distillation is not None and checkpoint is not None:
            self.distillation.load(checkpoint)

    def _load_callback_state(self) -> None:
        """Restore the callbacks, except for the patience, which may change when a run is resumed."""
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience = self.patience
                # A run without early stopping so far has saved no state of it.
                self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
        self._seen += inputs["recording"]
        return super().training_step(model, inputs, num_items_in_batch)

    def _get_grad_norm(self, model: nn.Module, grad_norm=None):
        """Return the norm of the gradients; if it is not finite, skip the update, in all processes alike."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        # With float16, the gradient scaler skips the update and needs the gradients to do so.
        if np.isfinite(float(grad_norm)) or self.accelerator.scaler is not None:
            self._skipped_updates = 0
        else:
            self._skipped_updates += 1
            logger.warning(
                "skipping an update with non-finite gradients; recordings: %s",
                ", ".join(sorted(set(self._seen))),
            )
            # AdamW skips parameters without a gradient.
            model.zero_grad(set_to_none=True)
            if self._skipped_updates >= MAX_SKIPPED_UPDATES:
                raise FloatingPointError(
                    f"the gradients of {MAX_SKIPPED_UPDATES} updates in a row are not finite: training diverges;"
                    " use a lower learning rate"
                )
        self._seen.clear()
        return grad_norm

    # How it is scored

    def get_eval_dataloader(self, eval_dataset: Windows | Dataset | None = None) -> DataLoader:
        """Load the windows of this process's share of the recordings, each recording whole and in order."""
        windows, numbers = self.eval_dataset if eval_dataset is None else eval_dataset, self._eval_numbers
        if windows is None:
            raise ValueError("there is nothing to evaluate on: pass eval_windows")
        if isinstance(windows, Windows):
            windows, numbers = windows.dataset, windows.class_numbers(list(self.model.config.id2label.values()))
        mine = np.flatnonzero(windows.recording % self.accelerator.num_processes == self.accelerator.process_index)
        return DataLoader(
            Subset(windows, mine.tolist()),
            batch_size=self.args.eval_batch_size,
            collate_fn=partial(collate, window_frames=self.window_frames, class_numbers=numbers),
            num_workers=self.args.dataloader_num_workers,
            worker_init_fn=end_with_program,
            # Otherwise, training would draw other numbers after each evaluation.
            generator=torch.Generator(),
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
        )

    def get_test_dataloader(self, test_dataset: Windows | Dataset) -> DataLoader:
        """Load windows as for evaluation."""
        return self.get_eval_dataloader(test_dataset)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Score whole recordings; afterwards, `scores` and `predictions` (events by recording) hold the details.

        The metrics are the mean loss over frames, its parts if the output format has several, and the scores of
        `seld_scores`: the macro average under their own names, the micro average as `micro_…`, and the macro average
        over recordings with a maximum of one, two, … simultaneous events as `ov1_…`, `ov2_…`.

        If more than the loss is needed, as by `predict` or for `compute_metrics`, outputs and labels of all windows
        are returned in the order of the data: an array (windows, frames, …), or a tuple if the format has several.
        """
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        # Each process has updated its own statistics of batch normalisation; those of the first are saved.
        broadcast(list(model.buffers()))
        self.callback_handler.eval_dataloader = dataloader
        # Sums of the losses over frames, and the number of `frames`.
        sums: Counter[str] = Counter()
        recordings, kept = [], [] if not prediction_loss_only else None
        windows = self._predict_windows(model, dataloader, sums, kept)
        threshold = checked_threshold(model.config.threshold, model.config)
        for name, of_recording in groupby(windows, key=lambda window: window["recording"]):
            heard = (
                (Window(w["start_frame"], w["outputs"], w["peak"]), w["num_frames"], w["events"]) for w in of_recording
            )
            recordings.append((name, *join_windows(model.output_format, heard, threshold)))
        indices = dataloader.dataset.indices
        if self.accelerator.num_processes > 1:
            recordings = gather_object(recordings)
            shares = gather_object([(sums, kept, indices)])
            # The first process has the first recording, and so all losses.
            sums = {name: sum(share[name] for share, *_ in shares) for name in shares[0][0]}
            kept = None if kept is None else [window for _, share, _ in shares for window in share]
            indices = [index for *_, share in shares for index in share]
        frames = max(sums.pop("frames"), 1)
        metrics = {name: total / frames for name, total in sums.items()} | self._score(model, recordings)
        predictions = labels = None
        if kept:
            kept = [kept[place] for place in np.argsort(indices)]
            *predictions, labels = (np.stack(arrays) for arrays in zip(*kept, strict=True))
            predictions = predictions[0] if len(predictions) == 1 else tuple(predictions)
            if self.compute_metrics is not None:
                metrics |= self.compute_metrics(EvalPrediction(predictions=predictions, label_ids=labels))
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in metrics.items()}
        return EvalLoopOutput(predictions=predictions, label_ids=labels, metrics=metrics, num_samples=len(indices))

    def _score(self, model: nn.Module, recordings: list[tuple[str, Events, Events]]) -> dict[str, float]:
        """Score recordings, given as name, reference events and predicted events."""
        names, references, predictions = zip(*sorted(recordings, key=lambda row: row[0]), strict=True)
        self.predictions = dict(zip(names, predictions, strict=True))
        overlap = [f"ov{events.max_overlap}" for events in references]
        self.scores = seld_scores(
            references, predictions, model.config.num_labels, variant=self.variant, groups=overlap, names=names
        )
        metrics = self.scores["macro"] | {f"micro_{score}": value for score, value in self.scores["micro"].items()}
        for label, part in self.scores["groups"].items():
            metrics |= {f"{label}_{score}": value for score, value in part["macro"].items()}
        return metrics

    def _predict_windows(
        self, model: nn.Module, dataloader: DataLoader, sums: Counter[str], kept: list | None
    ) -> Iterator[dict]:
        """Yield windows with their outputs (frames, …) and events; add to `sums`, and outputs and labels to `kept`.

        Raises:
            ValueError: the windows hold features, or scenes to be rendered, for which the trainer has no rooms.
        """
        for batch in dataloader:
            if "waveform" not in batch:
                raise ValueError(
                    "evaluation needs waveforms: call load_windows without device, and do not use keep_features"
                )
            size = len(batch["waveform"])
            events = take_examples_apart(batch["events"], size, self.window_frames)
            peak = batch["waveform"].abs().amax(1).unflatten(1, (self.window_frames, -1)).amax(2).numpy()
            inputs = self._prepare_inputs(batch)
            frames = 0
            for labels, *of_window in zip(inputs["labels"], peak, batch["num_frames"], events, strict=True):
                scored = scored_frames(*of_window)
                labels[torch.from_numpy(~scored)] = PADDED_LABEL
                frames += int(scored.sum())
            with torch.inference_mode(), self.accelerator.autocast():
                output = model(**inputs)
            outputs = {name: output[name].float() for name in model.output_format.output_names}
            parts = model.output_format.loss_parts(outputs, inputs["labels"])
            sums.update({name: float(value) * frames for name, value in parts.items()}, frames=frames)
            arrays = {name: value.cpu().numpy() for name, value in outputs.items()}
            if kept is not None:
                labels = inputs["labels"].cpu().numpy()
                kept += [tuple(np.copy(array[row]) for array in (*arrays.values(), labels)) for row in range(size)]
            for row in range(size):
                yield {
                    **{name: batch[name][row] for name in ("recording", "start_frame", "num_frames")},
                    "outputs": {name: array[row] for name, array in arrays.items()},
                    "peak": peak[row],
                    "events": events[row],
                }
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def score_table(self) -> str:
        """Format the scores of the last evaluation for printing."""
        names = {"labels": list(self.model.config.id2label.values()), "recordings with": self.scores["groups"]}
        table = format_scores({**self.scores, **names}, by="recordings with")
        return f"{self.variant}, {counted(len(self.predictions), 'recording')}\n{table}"

    def save_predictions(self, folder: Path) -> None:
        """Write the predictions of the last evaluation as a DCASE CSV per recording, replacing earlier ones.

        As in prediction, a source keeps its track number. Classes have the indices of the evaluation data, as its
        references do, whatever their order in the model.
        """
        numbers = self._eval_numbers
        of_data = np.arange(self.model.config.num_labels) if numbers is None else np.argsort(numbers)
        for path in folder.rglob("*.csv"):
            path.unlink()
        for name, events in self.predictions.items():
            path = folder / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            events = events.replace(class_id=of_data[events.class_id])
            write_csv(path, link_tracks(events), self.model.config.csv_layout)

    def create_model_card(self, **kwargs) -> None:
        """Write a card with the use of the model and its last scores; PEFT writes the card of an adapter."""
        if isinstance(self.model, PeftModel):
            super().create_model_card(**kwargs)
        elif self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            card = model_card(self.model.config, folder.name, self.feature_extractor, made="Trained as")
            if self.scores:
                card += f"\n## Scores\n\n```\n{self.score_table()}\n```\n"
            write_atomically(folder / "README.md", card)
