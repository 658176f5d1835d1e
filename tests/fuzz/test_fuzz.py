"""A few broken inputs of every kind, and a kill of each program; `make fuzz` tries thousands and many more kills."""

import pytest

from tests.fuzz.fuzz import answers, caught, shares
from tests.fuzz.inputs import KINDS
from tests.fuzz.kills import kill_again_and_again, write_inputs


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    with caught(folder / "made.txt"):
        write_inputs(folder / "valid")
    return folder / "valid"


@pytest.mark.parametrize("name", KINDS)
def test_a_broken_input_is_a_result_or_one_line(valid, name):
    bad = [answered for answered in answers(name, range(shares(90)[name]), valid) if answered[3] is not None]
    assert not bad


@pytest.mark.parametrize("name", ["pseldnet-predict", "pseldnet-train"])
def test_a_killed_program_leaves_only_whole_files_and_finishes_when_it_is_run_again(valid, tmp_path, name):
    assert kill_again_and_again(name, valid, tmp_path / "output", kills=1) == []
