"""Who asks, and where: boto3, region, credentials."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib.util import find_spec

from clusters.aws.account import Account, Answered, NotAllowed
from clusters.check import Check
from clusters.file import ClusterFile

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
LOGIN = "`aws sso login`, or get a new session token"


def package() -> Check:
    """Whether boto3 is installed here."""
    if find_spec("boto3") is None:
        return Check("boto3", problem="not installed", mend="pip install 'paretune[aws]'")
    import boto3

    return Check("boto3", str(boto3.__version__))


def region(file: ClusterFile) -> Check:
    """Whether the file names a region that there is, and zones of it."""
    import boto3

    name, where = str(file.provider.get("region", "")), file.at("provider", "region")
    session = boto3.Session(region_name="us-east-1")
    known = {
        each
        for partition in session.get_available_partitions()
        for each in session.get_available_regions("ec2", partition)
    }
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known), n=1)
        mend = f"did you mean '{near[0]}'?" if near else "such as us-west-2"
        return Check("region", problem=f"{where}: no region '{name}' is known here", mend=mend)
    zones = [z.strip() for z in str(file.provider.get("availability_zone", name)).split(",")]
    strange = [zone for zone in zones if not zone.startswith(name)]
    if strange:
        where = file.at("provider", "availability_zone")
        problem = f"{where}: {', '.join(strange)} does not lie in {name}"
        return Check("region", problem=problem, mend=f"zones such as {name}a")
    return Check("region", name)


def credentials(account: Account) -> Iterator[Check]:
    """Whether AWS takes the credentials; expired ones are told apart."""
    from botocore.exceptions import BotoCoreError, NoCredentialsError, ProfileNotFound

    name = "credentials"
    if account.file.provider.get("aws_credentials"):
        where = account.file.at("provider", "aws_credentials")
        mend = "keys do not belong into a file: use a profile, or AWS_* variables"
        yield Check(name, problem=f"{where}: keys in the cluster file", mend=mend)
    try:
        caller = account.ask("sts", "get_caller_identity")
        yield Check(name, str(caller["Arn"]))
    except (NoCredentialsError, ProfileNotFound) as error:
        mend = "run `aws configure` or `aws sso login`, or set AWS_PROFILE"
        yield Check(name, problem=str(error), mend=mend)
    except BotoCoreError as error:
        mend = "`aws sts get-caller-identity` must work; if it is a login's, `aws sso login`"
        yield Check(name, problem=str(error), mend=mend)
    except NotAllowed as error:  # a policy that denies it: they are valid all the same
        yield Check(name, problem=f"you may not {error}", mend="", warning=True)
    except Answered as error:
        if error.code in EXPIRED:
            yield Check(name, problem="they have expired", mend=LOGIN)
        else:
            mend = "`aws sts get-caller-identity` must work"
            yield Check(name, problem=f"AWS does not take them: {error}", mend=mend)
