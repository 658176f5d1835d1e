"""Which feature extractor fits a network, and which channel format fits the extractor."""

from .configuration_pseldnet import PSELDNetConfig
from .feature_extraction_pseldnet import FEATURE_TYPES, PSELDNetFeatureExtractor


# Fields of an extractor, and the fields of a network's config that must equal them.
FITTING = {
    "num_channels": "num_channels",
    "feature_size": "num_mel_bins",
    "sampling_rate": "sampling_rate",
    "hop_length": "hop_length",
    "n_fft": "n_fft",
}


def check_extractor(extractor: PSELDNetFeatureExtractor, config: PSELDNetConfig) -> None:
    """Check that a network takes an extractor's features.

    Raises:
        ValueError: they differ in type, channels, bins, sampling rate, hop or FFT length; the message says which.
    """
    if config.feature_type not in (None, extractor.feature_type):
        raise ValueError(f"{extractor.feature_type} features do not fit the model, which needs {config.feature_type}")
    for name, of_network in FITTING.items():
        given, taken = getattr(extractor, name), getattr(config, of_network)
        if taken not in (None, given):
            raise ValueError(
                f"{extractor.feature_type} features with a {name} of {given} do not fit the model, which needs {taken}"
            )


def adopt_extractor(config: PSELDNetConfig, extractor: PSELDNetFeatureExtractor) -> None:
    """Record an extractor's features in a config, so that the network is saved with a matching extractor.

    Raises:
        ValueError: as in [`check_extractor`].
    """
    check_extractor(extractor, config)
    config.feature_type, config.n_fft = extractor.feature_type, extractor.n_fft


def choose_channel_format(channel_format: str | None, feature_extractor: PSELDNetFeatureExtractor) -> str:
    """Return the channel format, or the default of the features if it is None.

    Raises:
        ValueError: the features cannot be computed from this format.
    """
    fitting = feature_extractor.channel_formats
    if channel_format is not None and channel_format not in fitting:
        raise ValueError(
            f"channel format {channel_format!r} does not go with {feature_extractor.feature_type} features:"
            f" use {' or '.join(fitting)}"
        )
    return channel_format or fitting[0]


def fitting_types(config: PSELDNetConfig) -> list[str]:
    """Return the feature types that fit a network, by the number of channels and its config's `feature_type`."""
    return [
        name
        for name, kind in FEATURE_TYPES.items()
        if kind.num_channels == config.num_channels and config.feature_type in (None, name)
    ]


def fitting_extractor(config: PSELDNetConfig) -> PSELDNetFeatureExtractor:
    """Return an extractor for a network: of its feature type, or else the first type with as many channels.

    For 7 channels that is ambisonics.

    Raises:
        ValueError: no feature type has that many channels.
    """
    fitting = fitting_types(config)
    if not fitting:
        raise ValueError(
            f"no feature type has the {config.num_channels} channels of the model: give its feature extractor"
        )
    return PSELDNetFeatureExtractor(
        feature_size=config.num_mel_bins,
        sampling_rate=config.sampling_rate,
        hop_length=config.hop_length,
        feature_type=fitting[0],
        **({} if config.n_fft is None else {"n_fft": config.n_fft}),
    )
