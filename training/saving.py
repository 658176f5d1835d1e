"""A `Trainer` that writes checkpoints and models atomically: whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from modeling_pseldnet.files import move_up
from modeling_pseldnet.keywords import in_one_line


# The leading underscore keeps it out of what is pushed to the Hub.
STAGING = "_saving"


class SavingTrainer(Trainer):
    """A `Trainer` that writes to a staging folder within the output folder and moves the files when all are written.

    An adapter is saved with the config of the model it is trained in.
    """

    # Where a checkpoint is being written, and the checkpoint that training is resumed from.
    _staging: str | None = None
    _resumed_from: Path | None = None

    def _get_output_dir(self, trial) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        """Write a checkpoint, whole or not at all."""
        run_dir, name = Path(self._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            # What a killed run left there does not belong to this checkpoint.
            shutil.rmtree(run_dir / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with self._staged(run_dir, name) as staging:
            self._staging = str(staging)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            if self.state.best_global_step == self.state.global_step:
                self.state.best_model_checkpoint = str(run_dir / name)
                if self.args.should_save:
                    self.state.save_to_json(str(staging / name / "trainer_state.json"))
            self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / name))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint only from its final folder, since the upload continues during training."""
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _load_callback_state(self) -> None:
        """On resuming, look for the best checkpoint in the current output folder, wherever the run was before."""
        super()._load_callback_state()
        recorded = TrainerState.load_from_json(str(self._resumed_from / TRAINER_STATE_NAME)).best_model_checkpoint
        best = recorded and Path(self.args.output_dir) / Path(recorded).name
        self.state.best_model_checkpoint = str(best) if best and best.is_dir() else None
        if self.args.load_best_model_at_end and best and not best.is_dir():
            # Otherwise, if no later checkpoint were as good, none would be kept.
            self.state.best_metric = None

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint, **kwargs)

    def restore(self, checkpoint: str) -> None:
        """Load the model of a run that ended with this checkpoint: the best if it is kept, else the last."""
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        self._resumed_from = Path(checkpoint)
        self._load_callback_state()
        is_best = self.args.load_best_model_at_end and self.state.best_model_checkpoint
        self._load_from_checkpoint(self.state.best_model_checkpoint if is_best else checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self._staging or not self.args.should_save:
            # A checkpoint is staged as a whole, and only the main process removes what it staged.
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir)
        shutil.rmtree(folder / STAGING, ignore_errors=True)
        with self._staged(folder, "the model") as staging:
            super()._save(str(staging), state_dict)

    @contextmanager
    def _staged(self, folder: Path, what: str) -> Iterator[Path]:
        """Provide a staging folder within `folder`, whose entries move up to `folder` when all are written.

        Raises:
            OSError: not everything could be written; nothing of it is left.
        """
        staging = folder / STAGING
        try:
            staging.mkdir(parents=True, exist_ok=True)
            yield staging
            if self.args.should_save:
                move_up(staging, folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise OSError(
                f"{what} could not be written to {folder} ({in_one_line(error)}): free some space and resume training;"
                " earlier checkpoints are intact"
            ) from error
        finally:
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
