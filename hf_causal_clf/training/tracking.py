"""Experiment trackers: what TensorBoard and trackio get of a finished run, beside what the `Trainer` sends them.

The `Trainer` sends the losses and the metrics of each evaluation, and closes the trackers when training ends. The
results of the finished run go into the same TensorBoard folder and the same trackio run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback, TrackioCallback, get_reporting_integration_callbacks

from ..runs.files import FIGURES_FOLDER

_FIGURE = "reliability_diagram"


class RunTracking(TrainerCallback):
    """Remembers where the trackers of a trainer write, and sends them the results of the finished run.

    Which trackers there are is what `report_to` says; others than TensorBoard and trackio get what the trainer sends.
    """

    def __init__(self, trainer: Trainer) -> None:
        callbacks = trainer.callback_handler.callbacks
        self._tensorboard = next((found for found in callbacks if isinstance(found, TensorBoardCallback)), None)
        self._uses_trackio = any(isinstance(found, TrackioCallback) for found in callbacks)
        self._trackio_run: Any = None
        self._trackio_options: dict[str, Any] = {}
        self._step = 0
        trainer.add_callback(self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the run that trackio's callback has just opened: its name may be made up by trackio."""
        if self._uses_trackio and state.is_world_process_zero:
            import trackio

            self._trackio_run = trackio.context_vars.current_run.get()
            self._trackio_options = {
                "space_id": args.trackio_space_id,
                "bucket_id": args.trackio_bucket_id,
                "private": args.hub_private_repo,
            }

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the step that the saved model is measured after."""
        self._step = state.global_step

    def send(self, output: Path, metrics: Mapping[str, float]) -> None:
        """Send the reliability diagram and the metrics of the test documents to TensorBoard and trackio.

        Args:
            output: Folder of the finished run.
            metrics: Metrics of the test documents, which are sent as `test/*`.
        """
        if not PartialState().is_main_process:
            return
        figure = output / FIGURES_FOLDER / f"{_FIGURE}.png"
        scalars = {f"test/{name}": value for name, value in metrics.items()}
        if self._tensorboard is not None:
            _send_to_tensorboard(self._tensorboard.logging_dir, scalars, figure, self._step)
        if self._trackio_run is not None:
            _send_to_trackio(self._trackio_run, self._trackio_options, scalars, figure, self._step)


def check_trackers(names: Sequence[str]) -> None:
    """Raise a `ValueError` for experiment trackers that the `Trainer` does not know or that are not installed."""
    try:
        get_reporting_integration_callbacks(names)
    except ValueError as error:  # names those that it does not know
        raise ValueError(f"report_to: {error}") from error


def _send_to_tensorboard(folder: str, scalars: Mapping[str, float], figure: Path, step: int) -> None:
    from matplotlib.image import imread

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # as the Trainer does
        from tensorboardX import SummaryWriter  # type: ignore[no-redef]

    pixels = np.rint(imread(figure) * 255).astype(np.uint8)
    with SummaryWriter(log_dir=folder) as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)
        writer.add_image(_FIGURE, pixels, step, dataformats="HWC")


def _send_to_trackio(
    run: Any, options: Mapping[str, Any], scalars: Mapping[str, float], figure: Path, step: int
) -> None:
    import trackio

    # No dashboard, and no monitors: they have watched the training
    off = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    resumed = trackio.init(run.project, run.name, **options, **off, resume="allow")
    resumed.config.update(run.config)  # the first log of a resumed run replaces the configuration. Seen with 0.43
    try:
        trackio.log({**scalars, "train/global_step": step, _FIGURE: trackio.Image(figure)})
    finally:
        trackio.finish()
