import pytest
import soundfile

from modeling_pseldnet import Events, PSELDNetFeatureExtractor, PSELDNetForSELD
from spaces_demo.models import Model
from spaces_demo.results import write_result
from tests.helpers import tiny_config


@pytest.mark.parametrize(("sampling_rate", "playback_rate"), [(20000, 22050), (96000, 48000)])
def test_a_model_of_a_rate_that_no_mp3_can_have_is_played_at_the_nearest(
    make_recording, tmp_path, sampling_rate, playback_rate
):
    rates = {"sampling_rate": sampling_rate, "hop_length": sampling_rate // 100}
    model = Model("any", PSELDNetForSELD(tiny_config(**rates)), PSELDNetFeatureExtractor(**rates), "", {})
    result = write_result(model, str(make_recording("a.wav")), Events.empty(), tmp_path)
    for preview in (result.stereo, result.binaural):
        assert soundfile.info(preview).samplerate == playback_rate
        assert soundfile.info(preview).duration == pytest.approx(1, abs=0.05)
