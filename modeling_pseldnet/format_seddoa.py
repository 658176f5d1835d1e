"""SEDDOA: the tracks of EINV2 from one branch with two heads (PSELDNets, arXiv 2411.06399)."""

from .format_einv2 import EINV2Format


class SEDDOAFormat(EINV2Format):
    """Outputs, labels, losses and decoding are those of [`EINV2Format`]; the network has one branch, not two."""
