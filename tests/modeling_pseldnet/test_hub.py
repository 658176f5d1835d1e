import json

import pytest
from transformers import pipeline

from tests.modeling_pseldnet.hub_server import serve_hub


BY_REGISTRATION = """
import json, sys
import modeling_pseldnet
from modeling_pseldnet.tools.predict import main
from transformers import AutoFeatureExtractor, AutoModelForAudioFrameClassification, pipeline
path = PATH
AutoFeatureExtractor.from_pretrained("user/model")
assert type(AutoModelForAudioFrameClassification.from_pretrained("user/model")) is modeling_pseldnet.PSELDNetForSELD
assert main([path, "--model", "user/model", "--json", "--overwrite"]) == 0
assert main([path, "--model", "user/none"]) == 2
print(json.dumps(pipeline("sound-event-localization-and-detection", model="user/model")(path)))
"""
BY_REMOTE_CODE = """
import json, sys
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioFrameClassification, pipeline
for auto in (AutoFeatureExtractor, AutoModel, AutoModelForAudioFrameClassification):
    auto.from_pretrained("user/model", trust_remote_code=True)
detector = pipeline("sound-event-localization-and-detection", model="user/model", trust_remote_code=True)
events = detector(PATH)
assert "modeling_pseldnet" not in sys.modules
print(json.dumps(events))
"""


@pytest.mark.parametrize("program", [BY_REGISTRATION, BY_REMOTE_CODE])
def test_a_model_loads_by_name_is_downloaded_once_and_works_offline(
    hub_folder, write_recording, tmp_path, run_python, program
):
    path = str(write_recording(seconds=1.5))
    expected = pipeline("sound-event-localization-and-detection", model=str(hub_folder))(path)
    code = f"PATH = {path!r}\n{program}"
    with serve_hub(hub_folder, "user/model") as (endpoint, downloads):
        printed = run_python(code, HF_ENDPOINT=endpoint, NO_PROXY="127.0.0.1")
        assert json.loads(printed.splitlines()[-1]) == expected
        assert downloads["model.safetensors"] == 1
        assert all(count == 1 for count in downloads.values())
    printed = run_python(code, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")
    assert json.loads(printed.splitlines()[-1]) == expected
    if program is BY_REGISTRATION:
        assert json.loads((tmp_path / "recording.json").read_text()) == expected
