"""The benign traffic of the simulation by name; much of it resembles attacks on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from deepidea.simulation import directory, discovery, machines, media, office
from deepidea.simulation.lab import Activity, Lab


@dataclass(frozen=True, slots=True)
class Application:
    """A kind of benign traffic: its activities, and the share of the sites that have it."""

    activities: Callable[[Lab, Random], Iterator[Activity]]
    share: float = 1.0


APPLICATIONS: dict[str, Application] = {
    "web": Application(office.web),
    "visits": Application(office.visits),
    "names": Application(office.names),
    "mail": Application(office.mail),
    "shells": Application(office.shells),
    "backups": Application(office.backups),
    "partners": Application(office.partners, 0.8),
    "agents": Application(machines.agents),
    "sensors": Application(machines.sensors, 0.8),
    "jobs": Application(machines.jobs, 0.8),
    "updates": Application(machines.updates, 0.8),
    "checks": Application(machines.checks, 0.9),
    "logs": Application(machines.logs, 0.6),
    "stale": Application(machines.stale),
    "retries": Application(machines.retries, 0.7),
    "forwarding": Application(machines.forwarding, 0.6),
    "clocks": Application(machines.clocks),
    "pings": Application(machines.pings),
    "stations": Application(machines.stations),
    "logins": Application(directory.logins, 0.7),
    "desktops": Application(directory.desktops, 0.6),
    "service names": Application(discovery.service_names, 0.8),
    "searches": Application(discovery.searches, 0.8),
    "local names": Application(discovery.local_names, 0.8),
    "addresses": Application(discovery.addresses, 0.8),
    "films": Application(media.films),
    "games": Application(media.games, 0.5),
    "calls": Application(media.calls, 0.7),
    "sharing": Application(media.sharing, 0.5),
    "syncing": Application(media.syncing, 0.8),
}
"""Benign traffic by name. The names seed its random draws: a new name gives other captures."""


def is_present(name: str, seed: int) -> bool:
    """Return whether the site of a seed has a kind of benign traffic.

    Examples
    --------
    >>> is_present("web", 0), len({is_present("games", seed) for seed in range(20)})
    (True, 2)
    """
    return Random(f"{name} present {seed}").random() < APPLICATIONS[name].share
