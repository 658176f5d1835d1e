"""Output formats: how events become labels, labels and outputs a loss, and outputs events.

A format is a class with these members; one file holds one format.

    head_sizes                              numbers a frame that each head gives, by the head's name
    class_head, numbers_a_class             name of the head that tells classes, and what it gives a frame for each
    output_names                            fields of the model's output that hold what it predicts
    outputs(heads) -> dict                  heads (batch, frames, numbers) as these fields
    encode(events, num_frames) -> Tensor    labels (frames, …) of one recording or window
    loss(outputs, labels) -> Tensor         scalar
    loss_parts(outputs, labels) -> dict     the same as `loss`, and by name what it is made of
    align_tracks(outputs, reference)        the first with tracks in the order of the second, both arrays (frames, …)
                                            of the same frames, so that they can be averaged
    decode(outputs, threshold) -> Events    from arrays (frames, …) of one recording
"""

from .configuration_pseldnet import PSELDNetConfig
from .format_accdoa import ACCDOAFormat, MultiACCDOAFormat
from .format_einv2 import EINV2Format, SEDDOAFormat


FORMATS = {
    "accdoa": ACCDOAFormat,
    "multi_accdoa": MultiACCDOAFormat,
    "einv2": EINV2Format,
    "seddoa": SEDDOAFormat,
}


def get_output_format(config: PSELDNetConfig):
    """The output format that `config` names, set up for its classes."""
    return FORMATS[config.output_format](config)
