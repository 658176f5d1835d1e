import pytest
import torch

from modeling_pseldnet import PSELDNetConfig, PSELDNetForSELD
from modeling_pseldnet.configuration_pseldnet import HTSAT_SIZES


def num_parameters(size: str) -> int:
    with torch.device("meta"):
        return PSELDNetForSELD(PSELDNetConfig.named(size, num_labels=13)).num_parameters()


def test_sizes_have_the_parameters_that_the_readme_gives():
    millions = {size: round(num_parameters(size) / 1e6, 2) for size in HTSAT_SIZES}
    assert millions == {"tiny": 0.98, "small": 4.41, "base": 28.08}


def test_the_base_size_is_the_published_network():
    assert PSELDNetConfig.named("base").to_dict() == PSELDNetConfig().to_dict()


@pytest.mark.parametrize("size", HTSAT_SIZES)
def test_attention_heads_have_one_width_that_is_a_multiple_of_8(size):
    config = PSELDNetConfig.named(size)
    widths = {config.embed_dim * 2**stage / heads for stage, heads in enumerate(config.num_heads)}
    assert len(widths) == 1
    assert widths.pop() % 8 == 0


def test_other_fields_go_with_a_size():
    config = PSELDNetConfig.named("tiny", output_format="einv2", depths=[1, 1, 1, 1])
    assert (config.output_format, config.embed_dim, config.depths) == ("einv2", 24, [1, 1, 1, 1])


def test_a_size_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="'huge' is unknown: use one of tiny, small, base"):
        PSELDNetConfig.named("huge")
