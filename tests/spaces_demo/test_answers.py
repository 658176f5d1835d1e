import pytest

from spaces_demo.answers import check_channels


@pytest.mark.parametrize(
    ("channels", "channel_format", "advice"),
    [
        (16, "auto", "This is ambisonics of order 3: extract its first four channels"),
        (16, "array", "Export the four channels of the ambisonic or tetrahedral microphone alone"),
        (9, "aformat", "Export the four channels of the ambisonic or tetrahedral microphone alone"),
        (3, "array", "A channel is missing: export all four from the program"),
        (2, "mono", "Mix it down to one channel"),
    ],
)
def test_advice_on_channels_is_that_of_the_format(channels, channel_format, advice):
    check_channels("it has", 1 if channel_format == "mono" else 4, channel_format)
    with pytest.raises(ValueError, match=rf"it has {channels} channels, but this model needs \d\. {advice}"):
        check_channels("it has", channels, channel_format)
