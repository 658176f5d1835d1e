"""The pipeline `sound-event-localization-and-detection`."""

from collections.abc import Iterator, Sequence
from numbers import Real
from pathlib import Path

from transformers import Pipeline

from .inference import detect
from .keywords import refuse_unknown
from .timeline import to_records


TASK = "sound-event-localization-and-detection"


class SoundEventLocalizationAndDetectionPipeline(Pipeline):
    """
    Pipeline for sound event localization and detection in recordings of any length.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import modeling_pseldnet

    >>> detector = pipeline("sound-event-localization-and-detection", model="path/or/repo")
    >>> detector("recording.wav", channel_format="fuma", hop_seconds=5)
    ```
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False

    def __init__(self, *args, batch_size: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        # Batches consist of windows, not of recordings, which differ in length.
        if batch_size is not None:
            self._forward_params["batch_size"] = batch_size

    def __call__(self, inputs, **kwargs):
        """Detect the sound events in one or more recordings.

        Args:
            inputs (`str`, `bytes`, `dict` or a list, tuple, iterator or data set of them):
                An audio file or its bytes, a dict of `array` or `raw` (channels, samples) and `sampling_rate` or of
                `path` and `bytes`, a decoder of `datasets`, or a dict with any of these as `audio`.
            channel_format (`str`, *optional*):
                What the channels are, such as `"ambix"` (W, Y, Z, X, SN3D), `"fuma"` (W, X, Y, Z, W 3 dB down) or
                `"aformat"` (capsules of a tetrahedral microphone). By default what the file declares or the model
                takes, usually `"ambix"`.
            threshold (`float` or `list[float]`, *optional*):
                Activity above which an event is reported, one for all classes or one per class. Defaults to the
                model's own.
            hop_seconds (`float`, *optional*):
                Step between windows, whose overlapping outputs are averaged. Defaults to the window length.
            tta (`bool`, *optional*, defaults to `False`):
                Whether to average over 16 rotations and reflections of the sound field, at 16 times the work.
            batch_size (`int`, *optional*, defaults to 8):
                Number of windows in a forward pass.

        Returns:
            A list of events for one recording, a list of such lists for several, or an iterator over such lists for an
            iterator or data set. An event is a dict of `onset` and `offset` (seconds), `label`, `track`, `azimuth` and
            `elevation` (degrees), `confidence` and `trajectory`; depending on the model also `distance` (metres) and
            `onscreen`.

        Raises:
            TypeError: an argument is unknown.
            ValueError: a recording cannot be used; the message says what is wrong.
        """
        kwargs["window_batch_size"] = kwargs.pop("batch_size", None)
        if _are_several(inputs):
            return [super(SoundEventLocalizationAndDetectionPipeline, self).__call__(one, **kwargs) for one in inputs]
        if _come_in_turn(inputs):
            return super().__call__((one for one in inputs), **kwargs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self, channel_format=None, threshold=None, hop_seconds=None, tta=None, window_batch_size=None, **kwargs
    ):
        known = ("channel_format", "threshold", "hop_seconds", "tta", "batch_size", "num_workers")
        refuse_unknown(kwargs, known, "the pipeline")
        options = {
            "channel_format": channel_format,
            "threshold": threshold,
            "hop_seconds": hop_seconds,
            "tta": tta,
            "batch_size": window_batch_size,
        }
        return {}, {name: value for name, value in options.items() if value is not None}, {}

    def save_pretrained(self, save_directory, **kwargs):
        """Save as in transformers, but the feature extractor first, because the model card describes it."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.feature_extractor.save_pretrained(save_directory)
        super().save_pretrained(save_directory, **kwargs)

    def _upload_modified_files(self, working_dir, repo_id, *args, **kwargs):
        # Before transformers adds its template as the card.
        self.model.complete_hub_folder(working_dir, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def preprocess(self, inputs):
        return {"source": inputs}

    def _forward(self, model_inputs, **options):
        return detect(self.model, self.feature_extractor, model_inputs["source"], **options)

    def postprocess(self, model_outputs):
        return to_records(model_outputs, self.model.config.id2label)


def _are_several(inputs) -> bool:
    """Whether these are several recordings; a tuple of samples and their rate is one."""
    if not isinstance(inputs, Sequence) or isinstance(inputs, str | bytes | bytearray | memoryview):
        return False
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        return True
    rate = inputs[1]
    return not (rate is None or isinstance(rate, Real) or getattr(rate, "ndim", None) == 0)


def _come_in_turn(inputs) -> bool:
    """Whether these are recordings to iterate over: an iterator that is not an open file, a data set of `datasets`, or
    a column of a streamed one. transformers would take all of these but generators for one recording."""
    if isinstance(inputs, dict):
        return False
    is_iterator = isinstance(inputs, Iterator) and not hasattr(inputs, "read")
    return is_iterator or hasattr(inputs, "column_names") or hasattr(inputs, "column_name")
