"""The pipeline `sound-event-localization-and-detection`."""

from transformers import Pipeline

from .inference import detect
from .timeline import to_records


TASK = "sound-event-localization-and-detection"


class SoundEventLocalizationAndDetectionPipeline(Pipeline):
    """
    Events of first-order ambisonic recordings of any length.

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

    def __call__(self, inputs, **kwargs):
        """
        Args:
            inputs (`str`, `dict` or a list of them):
                An audio file, or a dict of `array` (channels, samples) and `sampling_rate`.
            channel_format (`str`, *optional*):
                What the channels are, such as `"ambix"` (W, Y, Z, X, SN3D), `"fuma"` (W, X, Y, Z, W 3 dB down) or
                `"aformat"` (capsules of a tetrahedral microphone); what the model takes if left out, mostly `"ambix"`.
            threshold (`float` or `list[float]`, *optional*):
                Activity above which an event is reported, one or one a class; the model's own if left out.
            hop_seconds (`float`, *optional*):
                Step between windows, whose overlapping outputs are averaged; ten seconds, no overlap, if left out.
            tta (`bool`, *optional*, defaults to `False`):
                Whether to average over 16 rotations and reflections of the sound field, at 16 times the work.
            batch_size (`int`, *optional*, defaults to 8):
                Windows that go through the model at once.

        Returns:
            A list of events for one recording, a list of such lists for several. An event is a dict of `onset`,
            `offset` (seconds), `label`, `track`, `azimuth`, `elevation` (degrees), `confidence` and `trajectory`.

        Raises:
            ValueError: a recording cannot be used; the message says what is wrong.
        """
        # Windows are what is batched, not recordings, which differ in length.
        kwargs["window_batch_size"] = kwargs.pop("batch_size", None)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self, channel_format=None, threshold=None, hop_seconds=None, tta=None, window_batch_size=None, **kwargs
    ):
        if kwargs:
            raise TypeError(f"unknown arguments: {', '.join(kwargs)}")
        options = {
            "channel_format": channel_format,
            "threshold": threshold,
            "hop_seconds": hop_seconds,
            "tta": tta,
            "batch_size": window_batch_size,
        }
        return {}, {name: value for name, value in options.items() if value is not None}, {}

    def _upload_modified_files(self, working_dir, repo_id, *args, **kwargs):
        # Not with the form for a card that is not yet there.
        self.model._complete(working_dir, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def preprocess(self, inputs):
        source = (inputs["array"], inputs["sampling_rate"]) if isinstance(inputs, dict) else inputs
        return {"source": source}

    def _forward(self, model_inputs, **options):
        return detect(self.model, self.feature_extractor, model_inputs["source"], **options)

    def postprocess(self, model_outputs):
        return to_records(model_outputs, self.model.config.id2label)
