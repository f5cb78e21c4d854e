"""Questions to an AWS account: each with a time limit, and none that changes anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any

from clusters.check import Check
from clusters.file import ClusterFile

SECONDS = 15.0  # for all questions together
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403")
# As policies spell what boto3 names otherwise.
_PREFIXES = {"service-quotas": "servicequotas"}
_PERMISSIONS = {"s3:HeadBucket": "s3:ListBucket"}


class NotAllowed(Exception):
    """Whoever asks may not look; the message names the permission."""


class Answered(Exception):
    """AWS answered with an error: its ``code`` and its own words."""

    def __init__(self, code: str, words: str) -> None:
        self.code = code
        super().__init__(f"{code}: {words}")


@dataclass
class Account:
    """An account in the region of a cluster file, reached with the credentials that boto3 finds."""

    file: ClusterFile
    _clients: dict[str, Any] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def region(self) -> str:
        """Of the file."""
        return str(self.file.provider.get("region"))

    def ask(self, service: str, operation: str, **words: Any) -> dict[str, Any]:
        """One call, all pages of it.

        Raises:
            NotAllowed: the caller lacks the permission.
            Answered: any other error that AWS answers with.
            botocore.exceptions.BotoCoreError: no credentials, or no answer.
        """
        from botocore.exceptions import ClientError

        client = self._client(service)
        try:
            if not client.can_paginate(operation):
                return dict(getattr(client, operation)(**words))
            pages = client.get_paginator(operation).paginate(**words)
            return dict(pages.build_full_result())
        except ClientError as error:
            said = error.response.get("Error", {})
            code = str(said.get("Code", ""))
            if code in _DENIED:
                name = f"{_PREFIXES.get(service, service)}:{error.operation_name}"
                raise NotAllowed(_PERMISSIONS.get(name, name)) from None
            raise Answered(code, str(said.get("Message", error))) from None

    def _client(self, service: str) -> Any:
        with self._lock:  # boto3 makes clients in one thread at a time; they serve many
            if service not in self._clients:
                from botocore.config import Config

                limits = Config(
                    connect_timeout=2, read_timeout=4, retries={"total_max_attempts": 2}
                )
                self._clients[service] = self._session.client(
                    service, region_name=self.region, config=limits
                )
            return self._clients[service]

    @cached_property
    def _session(self) -> Any:
        import boto3

        return boto3.Session()

    @cached_property
    def types(self) -> Mapping[str, Mapping[str, Any]]:
        """What EC2 says of the file's instance types; those that the region lacks are missing."""
        named = {t.config.get("InstanceType") for t in self.file.node_types()} - {None}
        wanted = [{"Name": "instance-type", "Values": sorted(map(str, named))}]
        found = self.ask("ec2", "describe_instance_types", Filters=wanted)
        return {each["InstanceType"]: each for each in found["InstanceTypes"]}


@dataclass(frozen=True)
class Look:
    """Something to look at, under a name."""

    name: str
    at: Callable[[Account], Iterable[Check]]

    def run(self, account: Account) -> list[Check]:
        """What it finds; what could not be looked at is a warning, never a pass."""
        from botocore.exceptions import BotoCoreError

        try:
            # The name says what was looked at, so that all checks are found by it.
            return [replace(each, name=each.name or self.name) for each in self.at(account)]
        except NotAllowed as error:
            problem, mend = "could not be checked", f"your credentials may not {error}"
        except Answered as error:
            problem, mend = f"could not be checked: {error}", ""
        except BotoCoreError as error:
            problem, mend = f"could not be checked: {error}", "is there a way to AWS from here?"
        return [Check(self.name, problem=problem, mend=mend, warning=True)]


def look(account: Account, looks: Sequence[Look], seconds: float = SECONDS) -> Iterator[Check]:
    """All at once, in their order; what takes longer than ``seconds`` is a warning."""
    pool = ThreadPoolExecutor(len(looks))
    end = time.monotonic() + seconds
    found: list[Future[list[Check]]] = [pool.submit(each.run, account) for each in looks]
    for each, future in zip(looks, found, strict=True):
        wait([future], timeout=max(0.0, end - time.monotonic()))
        if future.done():
            yield from future.result()
        else:
            said = f"could not be checked: no answer within {seconds:g} s"
            yield Check(each.name, problem=said, mend="try again", warning=True)
    pool.shutdown(wait=False, cancel_futures=True)
