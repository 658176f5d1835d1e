"""Download the authors' pre-trained weights from their own repository and convert them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ..keywords import first_few
from .cli import describe
from .convert_checkpoint import ConversionReport, convert_checkpoint
from .labels import read_labels
from .loading import load


if TYPE_CHECKING:
    import torch

    from ..feature_extraction_pseldnet import PSELDNetFeatureExtractor
    from ..modeling_pseldnet import PSELDNetForSELD


# A data-set repository on the Hub, and the folder that holds the checkpoints.
REPOSITORY, REVISION, FOLDER = "Jinbo-HU/PSELDNets", "main", "model"
LABELS = "cls_indices_train.tsv"
TERMS = (
    f"the weights are those of PSELDNets' authors and carry their terms: {REPOSITORY} states no licence, so ask them"
    " before you pass the weights on; nothing is rehosted here"
)


class Published(NamedTuple):
    """Architecture and loss of a published checkpoint, as in [`PSELDNetConfig`]."""

    backbone: str
    output_format: str
    loss_type: str = "tpit"

    def __str__(self) -> str:
        return f"{self.backbone}, {self.output_format}" + (", aggregated loss" if self.loss_type != "tpit" else "")


# The number in a name is the SELD score that the authors report on the synthetic test set.
PUBLISHED = {
    "mACCDOA-HTSAT-0.567": Published("htsat", "multi_accdoa"),
    "ACCDOA-HTSAT-0.566": Published("htsat", "accdoa"),
    "EINV2-HTSAT-0.597": Published("htsat", "einv2"),
    "mACCDOA-PaSST-0.562": Published("passt", "multi_accdoa"),
    "mACCDOA-CNN14-Conformer-0.582": Published("cnn14_conformer", "multi_accdoa"),
    "EINV2-HTSAT-AGG1-0.514": Published("htsat", "einv2", "aggregated"),
    "SEDDOA-HTSAT-AGG1-0.531": Published("htsat", "seddoa", "aggregated"),
}


def load_published(
    name: str, labels: list[str] | None = None, device: str | torch.device | None = None
) -> tuple[PSELDNetForSELD, PSELDNetFeatureExtractor]:
    """Load a published model and its feature extractor, downloaded and converted once and kept in the Hub's cache.

    Args:
        name: one of [`PUBLISHED`], such as `"mACCDOA-HTSAT-0.567"`.
        labels: class names. Defaults to the authors' list.
        device: as in [`load`].

    Raises:
        ValueError: there is no such model, or it cannot be downloaded or converted; the message says what was found.
    """
    from huggingface_hub import constants

    _check_name(name)
    # Each list of class names has its own folder.
    digest = "" if labels is None else "-" + hashlib.sha256("\n".join(labels).encode()).hexdigest()[:16]
    folder = Path(constants.HF_HOME) / "pseldnets" / f"{name}{digest}"
    if not (folder / "config.json").is_file():
        convert_published(name, folder, labels, overwrite=True)
    return load(folder, device)


def convert_published(
    name: str, output: str | os.PathLike, labels: list[str] | None = None, overwrite: bool = False
) -> ConversionReport:
    """Download a published checkpoint, once, and convert it to a Hub folder with [`convert_checkpoint`].

    Raises:
        ValueError: there is no such model, or it cannot be downloaded or converted; the message says what was found.
        FileExistsError: `output` exists and is not empty.
    """
    from ..hub_folder import check_output

    _check_name(name)
    check_output(output, overwrite)
    files, commit = _list_files()
    checkpoint = _find(f"{name}.ckpt", files, "another version of this package may know it by another name")
    # Look for the class list before the slow download of the weights.
    listed = None if labels else _find(LABELS, files, "give the classes with --labels, or labels= in Python")
    return convert_checkpoint(
        _download(checkpoint, commit),
        output,
        **PUBLISHED[name]._asdict(),
        labels=labels or read_labels(_download(listed, commit)),
        overwrite=overwrite,
        source=f"{REPOSITORY}, {checkpoint}, commit {commit}",
        note=f"## Terms\n\n{TERMS[0].upper()}{TERMS[1:]}.\n",
    )


def list_published() -> str:
    """Return the published models and their architectures, one per line."""
    width = max(map(len, PUBLISHED))
    return "\n".join(f"{name:{width}}  {published}" for name, published in PUBLISHED.items())


def _check_name(name: str) -> None:
    if name not in PUBLISHED:
        raise ValueError(f"no published model {name!r}: choose from {', '.join(PUBLISHED)}")


def _list_files() -> tuple[list[str], str]:
    """Return the names of all files in the repository, and their commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = HfApi().dataset_info(REPOSITORY, revision=REVISION)
        return [file.rfilename for file in info.siblings], info.sha
    except RepositoryNotFoundError:
        raise ValueError(
            f"the authors' data set repository {REPOSITORY} is not on the Hub, or not accessible to you:"
            " convert a downloaded checkpoint with pseldnet-convert CHECKPOINT OUTPUT"
        ) from None
    except Exception as error:
        raise ValueError(f"the Hub cannot be reached for {REPOSITORY}: {describe(error)}") from None


def _find(wanted: str, files: list[str], advice: str) -> str:
    """Find a file by name, in any case and folder, preferably in that of the checkpoints."""
    found = [file for file in files if PurePosixPath(file).name.lower() == wanted.lower()]
    if found:
        return min(found, key=lambda file: (not file.startswith(f"{FOLDER}/"), len(file), file))
    suffix = PurePosixPath(wanted).suffix
    alike = [file for file in files if file.endswith(suffix)]
    there = f"its {suffix} files are {first_few(alike, 10)}" if alike else f"no {suffix} among its {len(files)} files"
    raise ValueError(f"{REPOSITORY} has no file {wanted}: {there}; {advice}")


def _download(file: str, commit: str) -> str:
    """Download a file of the repository at a commit, and return its path in the Hub's cache."""
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(REPOSITORY, file, repo_type="dataset", revision=commit)
    except Exception as error:
        raise ValueError(f"{file} of {REPOSITORY} cannot be downloaded: {describe(error)}") from None
