from copy import deepcopy
from itertools import product

import pytest
import torch
from transformers import AutoModelForAudioFrameClassification

from modeling_pseldnet import Events, PSELDNetConfig, PSELDNetForSELD
from modeling_pseldnet.configuration_pseldnet import HTSAT_SIZES
from modeling_pseldnet.modeling_layers import relative_shift, sinusoids
from modeling_pseldnet.output_formats import FORMATS
from tests.helpers import PASST, scattered, tiny_config


CRNN = {"backbone": "crnn", "hidden_sizes": [4, 4, 8, 16], "decoder_layers": 2}
ENCODERS = {
    "htsat": {},
    **{f"htsat {size}": HTSAT_SIZES[size] for size in ("tiny", "small")},
    "passt": PASST,
    "passt with conformer": {**PASST, "decoder": "conformer"},
    "cnn14_conformer": {"backbone": "cnn14_conformer", "hidden_sizes": [4, 4, 4, 8, 8, 16]},
    "crnn with gru": {**CRNN, "decoder": "gru"},
    "crnn with conformer": {**CRNN, "decoder": "conformer"},
    "crnn with transformer": {**CRNN, "decoder": "transformer"},
    "crnn without decoder": {**CRNN, "decoder": "none"},
}
# All encoders, with HTS-AT in a single size.
KINDS = [name for name in ENCODERS if name not in ("htsat tiny", "htsat small")]


def features(frames: int = 301, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 7, frames, 64, generator=torch.Generator().manual_seed(1))


def config_of(encoder: str, window_seconds: int = 3, **fields) -> PSELDNetConfig:
    fields = {**ENCODERS[encoder], **fields}
    return tiny_config(window_seconds=window_seconds, decoder_dropout_prob=0.0, **fields)


def network(encoder: str, **fields) -> PSELDNetForSELD:
    return scattered(PSELDNetForSELD(config_of(encoder, **fields))).eval()


def labels_for(model: PSELDNetForSELD, frames: int) -> torch.Tensor:
    """Labels of a shape that the model's format takes, with all classes active on all tracks."""
    one = model.output_format.encode(Events([0], [0], [0], [30.0], [10.0]), frames)
    return torch.full((2, *one.shape), 0.5)


@pytest.mark.parametrize(
    ("name", "backbone", "output_format", "num_waveforms"),
    [
        ("passt-accdoa-12", "passt", "accdoa", 1),
        ("passt-multi_accdoa-13", "passt", "multi_accdoa", 2),
        ("cnn8_gru-multi_accdoa-13", "crnn", "multi_accdoa", 2),
        ("cnn8_conformer-multi_accdoa-13", "crnn", "multi_accdoa", 2),
        ("cnn14_conformer-multi_accdoa-13", "cnn14_conformer", "multi_accdoa", 1),
    ],
)
def test_converted_checkpoints_give_the_outputs_of_the_published_network(
    published_outputs, name, backbone, output_format, num_waveforms
):
    outputs, golden = published_outputs(name, backbone, output_format, num_waveforms)
    torch.testing.assert_close(outputs.accdoa.flatten(2), torch.from_numpy(golden[output_format]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("encoder", "output_format"), [*product(KINDS, FORMATS), *product(["htsat tiny", "htsat small"], ["accdoa"])]
)
def test_every_encoder_trains_with_every_format_and_survives_saving_bitwise(encoder, output_format, tmp_path):
    model = PSELDNetForSELD(config_of(encoder, output_format=output_format, window_seconds=1)).train()
    inputs, labels = features(101), labels_for(model, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path)
    loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path)
    saved = loaded.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        # Memory alignment of loaded weights may change the kernel of a matrix product, and with it the rounding.
        torch.testing.assert_close(loaded.predict(inputs), model.predict(inputs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("encoder", KINDS)
@pytest.mark.parametrize(("frames", "label_frames"), [(1, 1), (11, 1), (12, 2), (235, 24), (301, 30)])
def test_a_label_frame_is_100_milliseconds_whatever_the_length(encoder, frames, label_frames):
    model = network(encoder)
    with torch.no_grad():
        assert model(features(frames)).accdoa.shape == (2, label_frames, 3, 3, 3)
        embeddings = model.pseldnet(features(frames)).last_hidden_state
        assert embeddings.shape == (2, label_frames, model.pseldnet.encoder.hidden_size)


@pytest.mark.parametrize("encoder", KINDS)
@pytest.mark.parametrize("window_seconds", [1, 2, 5])
def test_the_window_may_have_any_number_of_seconds(encoder, window_seconds):
    model = network(encoder, window_seconds=window_seconds)
    with torch.no_grad():
        outputs = model(features(100 * window_seconds + 1))
    assert outputs.accdoa.shape[1] == 10 * window_seconds


@pytest.mark.parametrize("encoder", KINDS)
def test_padding_that_is_masked_changes_nothing(encoder):
    model, short = network(encoder), features(151)
    padded = torch.nn.functional.pad(short, (0, 0, 0, 150), value=3.0)
    mask = (torch.arange(301) < 151).long().expand(2, -1)
    with torch.no_grad():
        expected, found = model(short).accdoa, model(padded, attention_mask=mask).accdoa[:, :15]
    torch.testing.assert_close(found, expected)


def test_padding_that_is_masked_is_left_out_of_the_statistics_of_training():
    norms = [network("crnn without decoder").pseldnet.input_norm.train() for _ in range(2)]
    recordings, mask = features(), torch.ones(2, 301)
    recordings[1, :, 101:], mask[1, 101:] = -50.0, 0
    expected = norms[0](torch.cat([recordings[:1], recordings[1:, :, :101]], dim=2))
    found = norms[1](recordings, mask)
    torch.testing.assert_close(torch.cat([found[:1], found[1:, :, :101]], dim=2), expected)
    for name, value in norms[0].state_dict().items():
        torch.testing.assert_close(norms[1].state_dict()[name], value)
    assert norms[1].num_batches_tracked == 1
    assert torch.equal(norms[1].eval()(recordings, mask), norms[1](recordings))


@pytest.mark.parametrize("encoder", KINDS)
def test_sdpa_and_eager_attention_agree(encoder):
    model = network(encoder)
    eager = PSELDNetForSELD._from_config(deepcopy(model.config), attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        torch.testing.assert_close(eager(features()).accdoa, model(features()).accdoa, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("encoder", "states", "attentions"),
    [
        ("htsat", [(4096, 8), (1024, 16), (256, 32), (64, 64), (64, 64)], [(1, 64, 64)] * 2 + [(2, 64, 64)] * 3),
        ("passt", [(182, 16)] * 3, [(2, 182, 182)] * 2),
        ("cnn14_conformer", [(7, 304, 64), (4, 152, 32)], [(8, 38, 38)]),
        ("crnn with transformer", [(7, 304, 64), (4, 152, 32)], [(8, 38, 38)] * 2),
        ("crnn with gru", [(7, 304, 64), (4, 152, 32), (4, 76, 16), (8, 38, 8), (16, 38, 4)], []),
    ],
)
def test_hidden_states_and_attentions_come_on_request(encoder, states, attentions):
    model = PSELDNetForSELD._from_config(config_of(encoder), attn_implementation="eager").eval()
    with torch.no_grad():
        outputs = model(features(), output_hidden_states=True, output_attentions=True)
        plain = model(features())
    assert plain.hidden_states is plain.attentions is None
    assert torch.equal(outputs.accdoa, plain.accdoa)
    assert [tuple(state.shape[1:]) for state in outputs.hidden_states[: len(states)]] == states
    assert [tuple(weights.shape[1:]) for weights in outputs.attentions] == attentions
    for weights in outputs.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def gradients(model: PSELDNetForSELD) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(features(), labels=torch.ones(2, 30, 3, 3, 3) / 3).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("encoder", KINDS)
def test_every_parameter_has_a_gradient_and_every_batch_counts_once_with_and_without_checkpointing(encoder):
    model = network(encoder, drop_path_rate=0.0).train()
    checkpointed = deepcopy(model)
    checkpointed.gradient_checkpointing_enable()
    expected, found = gradients(model), gradients(checkpointed)
    assert [name for name, gradient in expected.items() if not gradient.any()] == []
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    for name, statistic in model.named_buffers():
        torch.testing.assert_close(checkpointed.get_buffer(name), statistic, msg=name)


def test_weights_of_attention_come_with_checkpointing():
    model = network("passt").train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    outputs = model(features(), labels=torch.zeros(2, 30, 3, 3, 3), output_attentions=True)
    outputs.loss.backward()
    assert len(outputs.attentions) == 2


# Every encoder and every decoder once, with no more layers than there are kinds of them.
@pytest.mark.parametrize(
    ("encoder", "layers"),
    [
        ("htsat", {"depths": [2, 1], "num_heads": [1, 2]}),
        ("passt", {"num_hidden_layers": 1}),
        ("cnn14_conformer", {"decoder_layers": 1}),
        ("crnn with gru", {"decoder_layers": 1}),
        ("crnn with transformer", {"decoder_layers": 1}),
    ],
)
def test_it_compiles_without_graph_breaks_but_for_recurrent_layers(encoder, layers):
    model = network(encoder, **layers)
    # PyTorch keeps recurrent layers out of graphs, where they would take a node per time step.
    compiled = torch.compile(model, backend="eager", fullgraph="gru" not in encoder)
    with torch.no_grad():
        found, expected = (of(features(), labels=torch.zeros(2, 30, 3, 3, 3)) for of in (compiled, model))
    torch.testing.assert_close(found.accdoa, expected.accdoa)
    torch.testing.assert_close(found.loss, expected.loss)


@pytest.mark.parametrize("encoder", [name for name in KINDS if config_of(name).decoder != "none"])
def test_a_decoder_that_is_missing_from_a_checkpoint_is_initialised(encoder, tmp_path):
    model = network(encoder)
    entries = {name: value for name, value in model.state_dict().items() if "decoder" not in name}
    model.save_pretrained(tmp_path, state_dict=entries)
    loaded = PSELDNetForSELD.from_pretrained(tmp_path).eval()
    for name, value in loaded.state_dict().items():
        assert value.isfinite().all(), name
        assert value.abs().max() < 1 or name in entries or name.endswith(("weight", "running_var")), name
    with torch.no_grad():
        assert loaded(features()).accdoa.isfinite().all()


def test_patchout_leaves_tokens_out_in_training_alone():
    model = network("passt")
    # As for fine-tuning a model that was trained without.
    model.config.update({"time_patchout": 10, "frequency_patchout": 2, "unstructured_patchout": 15})
    with torch.no_grad():
        evaluated = model(features(), output_hidden_states=True)
        assert evaluated.hidden_states[0].shape[1] == 2 + 6 * 30
        assert torch.equal(evaluated.accdoa, model(features()).accdoa)
        torch.manual_seed(0)
        trained = model.train()(features(), output_hidden_states=True)
        assert trained.hidden_states[0].shape[1] == 2 + (6 - 2) * (30 - 10) - 15
        assert trained.accdoa.shape == evaluated.accdoa.shape
        assert not torch.equal(model(features()).accdoa, trained.accdoa)


def test_the_nearest_patch_stands_for_one_that_was_left_out():
    embeddings = network("passt", time_patchout=20, unstructured_patchout=3).pseldnet.encoder.patch_embeddings
    kept, nearest = embeddings.patchout(torch.device("cpu"))
    grid = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(30), indexing="ij"), dim=-1).flatten(0, 1)
    assert len(kept) == 6 * 10 - 3
    assert torch.equal(nearest[kept], torch.arange(len(kept)))
    for place in range(180):
        distance = (grid[kept] - grid[place]).square().sum(1)
        assert distance[nearest[place]] == distance.min()


def test_wrong_fields_are_refused_by_name():
    for complaint, fields in {
        "no decoder": {"decoder": "gru"},
        "patch_size": {**PASST, "patch_size": 15},
        "patchout": {**PASST, "frequency_patchout": 6},
    }.items():
        with pytest.raises(Exception, match=complaint):
            tiny_config(**fields)
    with pytest.raises(Exception, match="num_attention_heads 3 does not divide hidden_size 16"):
        PSELDNetForSELD(tiny_config(**{**PASST, "num_attention_heads": 3}))


def test_relative_shift_puts_the_last_position_at_the_query_itself():
    scores = torch.arange(16.0).reshape(1, 1, 4, 4)
    shifted = relative_shift(scores)[0, 0]
    for query in range(4):
        assert torch.equal(shifted[query, : query + 1], scores[0, 0, query, 3 - query :])


def test_sinusoids_are_those_of_the_published_checkpoints(values):
    torch.testing.assert_close(sinusoids(200, 64), torch.from_numpy(values._sinusoids(200, 64)[0]), atol=2e-5, rtol=0)


def test_a_sinusoid_table_is_never_saved():
    assert not any("sinusoid" in name or name.endswith(".pe") for name in network("cnn14_conformer").state_dict())


@pytest.mark.gpu
@pytest.mark.parametrize("encoder", KINDS)
def test_bf16_on_a_gpu_is_close_to_fp32(encoder):
    model = PSELDNetForSELD(config_of(encoder)).eval()
    with torch.no_grad():
        expected = model(features()).accdoa
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found = model.cuda()(features().cuda()).accdoa
    torch.testing.assert_close(found.float().cpu(), expected, atol=0.1, rtol=0)
