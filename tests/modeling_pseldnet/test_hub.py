import json

from transformers import pipeline

from tests.modeling_pseldnet.hub_server import serve_hub


BY_REMOTE_CODE = """
import json, sys
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioFrameClassification, pipeline
for auto in (AutoFeatureExtractor, AutoModel, AutoModelForAudioFrameClassification):
    auto.from_pretrained("user/model", trust_remote_code=True)
by_remote_code = pipeline("sound-event-localization-and-detection", model="user/model", trust_remote_code=True)(PATH)
assert "modeling_pseldnet" not in sys.modules
"""
BY_REGISTRATION = """
import modeling_pseldnet
from modeling_pseldnet.tools.predict import main
extractor = AutoFeatureExtractor.from_pretrained("user/model")
assert type(extractor) is modeling_pseldnet.PSELDNetFeatureExtractor
assert type(AutoModelForAudioFrameClassification.from_pretrained("user/model")) is modeling_pseldnet.PSELDNetForSELD
assert main([PATH, "--model", "user/model", "--json", "--overwrite"]) == 0
assert main([PATH, "--model", "user/none"]) == 2
by_registration = pipeline("sound-event-localization-and-detection", model="user/model")(PATH)
print(json.dumps([by_remote_code, by_registration]))
"""


def test_a_model_loads_by_name_is_downloaded_once_and_works_offline(hub_folder, write_recording, tmp_path, run_python):
    """Without the package, and then in the same process with it."""
    path = str(write_recording(seconds=1.5))
    expected = pipeline("sound-event-localization-and-detection", model=str(hub_folder))(path)
    code = f"PATH = {path!r}\n{BY_REMOTE_CODE}{BY_REGISTRATION}"
    with serve_hub(hub_folder, "user/model") as (endpoint, downloads):
        printed = run_python(code, HF_ENDPOINT=endpoint, NO_PROXY="127.0.0.1")
        assert json.loads(printed.splitlines()[-1]) == [expected, expected]
        assert json.loads((tmp_path / "recording.json").read_text()) == expected
        assert downloads["model.safetensors"] == 1
        assert all(count == 1 for count in downloads.values())
    printed = run_python(code, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")
    assert json.loads(printed.splitlines()[-1]) == [expected, expected]
