import pickle
from copy import deepcopy

import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioFrameClassification

from modeling_pseldnet import Events, PSELDNetFeatureExtractor, PSELDNetForSELD, PSELDNetModel
from tests.helpers import scattered, tiny_config


def features(frames: int = 1001, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 7, frames, 64, generator=torch.Generator().manual_seed(1))


def test_outputs_have_the_shapes_of_the_contract(tiny_model):
    with torch.no_grad():
        assert tiny_model(features()).accdoa.shape == (2, 100, 3, 3, 3)
        assert tiny_model.pseldnet(features()).last_hidden_state.shape == (2, 100, 64)
        single = PSELDNetForSELD(tiny_config(output_format="accdoa")).eval()
        assert single(features()).accdoa.shape == (2, 100, 1, 3, 3)


def test_tuples_come_on_request(tiny_model):
    with torch.no_grad():
        expected = tiny_model(features()).accdoa
        (accdoa,) = tiny_model(features(), return_dict=False)
        assert torch.equal(accdoa, expected)
        tiny_model.config.return_dict = False
        (accdoa,) = tiny_model(features())
        assert torch.equal(accdoa, expected)
        assert torch.equal(tiny_model.predict(features())["accdoa"], expected)


@pytest.mark.parametrize("activation", ["softplus", "relu", "exp"])
def test_a_model_can_be_pickled(activation):
    model = PSELDNetForSELD(tiny_config(distance=True, distance_activation=activation)).eval()
    copied = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        assert torch.equal(copied(features()).distance, model(features()).distance)


def test_inference_computes_what_training_does_whatever_the_batch(tiny_model):
    inputs = features(batch=3)
    expected = tiny_model(inputs).accdoa.detach()
    with torch.inference_mode():
        torch.testing.assert_close(tiny_model(inputs).accdoa, expected, atol=1e-5, rtol=1e-4)


def test_labels_of_another_length_are_refused(tiny_model):
    with pytest.raises(ValueError, match="labels have shape"):
        tiny_model(features(501), labels=torch.zeros(2, 100, 3, 3, 3))


@pytest.mark.parametrize(("shape", "complaint"), [((1, 4, 100, 64), "4 channels"), ((1, 7, 1002, 64), "1002 frames")])
def test_features_that_do_not_fit_are_refused(tiny_model, shape, complaint):
    with pytest.raises(ValueError, match=complaint):
        tiny_model(torch.zeros(shape))


def test_settings_that_are_changed_in_a_models_config_count_and_those_of_another_network_are_refused(tiny_model):
    found = []
    for degrees in (0.0, 180.0):
        tiny_model.config.unify_degrees = degrees
        with torch.no_grad():
            outputs = {"accdoa": tiny_model(features(101, batch=1)).accdoa[0].numpy()}
        found.append(len(tiny_model.output_format.decode(outputs, 0.1)))
    assert found[0] > found[1] > 0
    tiny_model.config.id2label = {0: "bell", 1: "horn", 2: "car"}
    tiny_model(features(101))
    for name, value in {"id2label": {0: "bell"}, "num_axes": 2, "distance": True, "output_format": "seddoa"}.items():
        changed = deepcopy(tiny_model)
        setattr(changed.config, name, value)
        with pytest.raises(ValueError, match=r"no longer fit the network: make one .*\.load_for_transfer"):
            changed(features(101))


def test_half_precision_autocast_is_close_to_single_precision():
    model = PSELDNetForSELD(tiny_config()).eval()
    with torch.no_grad():
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                half = model(features(), labels=torch.zeros(2, 100, 3, 3, 3))
            assert half.accdoa.isfinite().all()
            assert half.loss.isfinite()
            torch.testing.assert_close(half.accdoa.float(), model(features()).accdoa, atol=0.03, rtol=0)


def test_weights_in_half_precision_run(tiny_model):
    with torch.no_grad():
        assert tiny_model.to(torch.bfloat16)(features().to(torch.bfloat16)).accdoa.dtype == torch.bfloat16


def test_a_saved_model_loads_through_the_auto_classes_bitwise_equal(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = tiny_model(features())
        loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path)
        assert type(loaded) is PSELDNetForSELD
        assert torch.equal(loaded(features()).accdoa, expected.accdoa)
        base = AutoModel.from_pretrained(tmp_path)
        assert type(base) is PSELDNetModel
        assert torch.equal(base(features()).last_hidden_state, tiny_model.pseldnet(features()).last_hidden_state)
    assert AutoConfig.from_pretrained(tmp_path).id2label[1] == "footsteps"
    assert not any("index" in name or "order" in name for name in tiny_model.state_dict())


def test_a_part_that_is_missing_from_a_checkpoint_is_initialised(tiny_model, tmp_path):
    tiny_model.pseldnet.save_pretrained(tmp_path)
    model = PSELDNetForSELD.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model.pseldnet(features()).last_hidden_state, tiny_model.pseldnet(features()).last_hidden_state
        )
    # Uniform within ± 1 / sqrt(number of inputs), which are 64 channels of 2 x 3.
    assert model.heads["accdoa"].conv.weight.std().item() == pytest.approx((3 * 64 * 6) ** -0.5, rel=0.1)


def test_the_extractor_and_the_model_of_a_folder_fit_each_other(hub_folder):
    extractor = AutoFeatureExtractor.from_pretrained(hub_folder)
    assert type(extractor) is PSELDNetFeatureExtractor
    assert extractor.sampling_rate == AutoConfig.from_pretrained(hub_folder).sampling_rate


def test_wrong_values_in_a_config_are_refused():
    for wrong in ({"backbone": "resnet"}, {"output_format": "x"}, {"hop_length": 250}, {"depths": "many"}):
        with pytest.raises(Exception, match=next(iter(wrong))):
            tiny_config(**wrong)


FORMATS = ("accdoa", "multi_accdoa", "einv2", "seddoa")


def labels_of(model, frames: int) -> torch.Tensor:
    """Two sources in every frame, (1, frames, …)."""
    frame = [*range(frames)] * 2
    events = Events(frame, [0] * frames + [1] * frames, [0] * 2 * frames, frame, [10] * 2 * frames)
    return model.output_format.encode(events.sort(), frames)[None]


@pytest.mark.parametrize("name", FORMATS)
def test_padded_labels_and_padded_frames_have_no_loss(name):
    model = scattered(PSELDNetForSELD(tiny_config(output_format=name))).eval()
    labels, short = labels_of(model, 30), features(301, batch=1)
    padded = torch.nn.functional.pad(short, (0, 0, 0, 200), value=3.0)
    mask = (torch.arange(501) < 301).long()[None]
    more = torch.cat([labels, torch.full_like(labels_of(model, 20), -100)], dim=1)
    silent = torch.cat([labels, torch.zeros_like(labels_of(model, 20))], dim=1)
    with torch.no_grad():
        expected = model(short, labels=labels).loss
        for of_padded in (more, silent):
            torch.testing.assert_close(model(padded, mask, of_padded).loss, expected)
        outputs = model(padded, mask)
        part = model(
            short, labels=torch.where(torch.arange(30).view(1, 30, *[1] * (labels.ndim - 2)) < 20, labels, -100)
        )
        of_20 = {key: value[:, :20] for key, value in model.predict(short).items()}
        torch.testing.assert_close(part.loss, model.output_format.loss(of_20, labels[:, :20]))
    arrays = {key: outputs[key][0].numpy() for key in model.output_format.output_names}
    found = model.output_format.decode(arrays, 1e-3)
    assert found.frame.max() < 30


@pytest.mark.parametrize("name", FORMATS)
def test_outputs_that_are_padded_with_minus_100_are_no_events(name):
    output_format = PSELDNetForSELD(tiny_config(output_format=name)).output_format
    shapes = {"accdoa": (output_format.encode(Events.empty(), 1).shape[1], 3, 3), "sed_logits": (3, 3), "doa": (3, 3)}
    outputs = {key: torch.full((5, *shapes[key]), -100.0).numpy() for key in output_format.output_names}
    assert len(output_format.decode(outputs, 0.01)) == 0


@pytest.mark.parametrize("name", FORMATS)
def test_labels_of_another_format_are_refused_and_not_broadcast(name):
    model = PSELDNetForSELD(tiny_config(output_format=name)).eval()
    good = labels_of(model, 10)
    for wrong in (
        good[..., :1],
        good[:, :, :1] if good.shape[2] > 1 else good.expand(-1, -1, 2, -1, -1),
        good[0],
        good[:, :9],
    ):
        with pytest.raises(ValueError, match="labels have shape"):
            model(features(101, batch=1), labels=wrong)


def test_arguments_that_nobody_takes_are_refused(tiny_model):
    mask = torch.ones(2, 101)
    for model in (tiny_model, tiny_model.pseldnet):
        with pytest.raises(TypeError, match="unknown argument: attention_maks; did you mean attention_mask"):
            model(features(101), attention_maks=mask)
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 100\)"):
        tiny_model(features(101), attention_mask=mask[:, 1:])
    with pytest.raises(ValueError, match="input_features must be"):
        tiny_model(features(101)[0])


def test_embeddings_are_computed_only_where_they_are_wanted(tiny_model):
    with torch.no_grad():
        encoded = tiny_model.pseldnet(features(101), output_embeddings=False)
    assert encoded.last_hidden_state is None
    assert encoded.feature_map is not None
