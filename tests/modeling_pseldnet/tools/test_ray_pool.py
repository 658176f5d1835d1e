import pytest

from modeling_pseldnet.tools.ray_pool import Actor


def test_what_keeps_a_worker_from_being_made_is_raised_by_its_job():
    actor = Actor(int, "none")
    with pytest.raises(ValueError, match="none"):
        actor.work("job")
