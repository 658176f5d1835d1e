"""Distribute work over a Ray cluster."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property, partial
from typing import Any

from .extras import require


def map_on_ray(
    make_worker: Callable, arguments: tuple, jobs: Iterable, workers: int, address: str = "local"
) -> Iterator[Any]:
    """Yield the workers' results for jobs, in the order in which they finish.

    Args:
        make_worker: a class whose instances are called with a job; each worker creates one and keeps it.
        arguments: arguments of that class, sent once to each machine.
        jobs: what the workers are called with.
        workers: number of workers, with one core each.
        address: address of the cluster, whose machines must see the same folders. Defaults to `"local"`, which starts
            one on this machine.

    Raises:
        ImportError: Ray is not installed.
        BrokenProcessPool: a worker died.
        Exception: any exception that a worker raises.
    """
    ray = require("ray", "ray.util")

    started = not ray.is_initialized()
    if started:
        local = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    try:
        shared = [ray.put(argument) for argument in arguments]
        actors = [ray.remote(num_cpus=1)(Actor).remote(make_worker, *shared) for _ in range(workers)]
        yield from ray.util.ActorPool(actors).map_unordered(lambda actor, job: actor.work.remote(job), jobs)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError:
        raise BrokenProcessPool("a worker died") from None
    finally:
        if started:
            ray.shutdown()


class Actor:
    """Create the worker with the first job: if an actor raises earlier, Ray only reports that it died."""

    def __init__(self, make_worker: Callable, *arguments):
        self.make = partial(make_worker, *arguments)

    @cached_property
    def worker(self) -> Callable:
        return self.make()

    def work(self, job: Any) -> Any:
        return self.worker(job)
