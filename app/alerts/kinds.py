"""What there are alerts of."""

from dataclasses import dataclass

from app.errors import N_


@dataclass(frozen=True)
class Kind:
    title: str  # a msgid
    severity: str  # error or warning
    lasting: bool = True  # it fires until it is resolved; else it just happened
    platform: bool = False  # of the platform, not of a workspace


KINDS = {
    "job_failed": Kind(N_("Job failed"), "warning", lasting=False),
    "deployment_unhealthy": Kind(N_("Deployment unhealthy"), "error"),
    "quota_near": Kind(N_("Quota nearly used up"), "warning"),
    "quota_used": Kind(N_("Quota used up"), "error"),
    "node_lost": Kind(N_("Node lost"), "error", platform=True),
    "disk_low": Kind(N_("Disk nearly full"), "warning", platform=True),
    "backup_failed": Kind(N_("Backup failed"), "error", platform=True),
}


def offered(platform: bool) -> dict[str, Kind]:
    """The kinds that a rule may name: a workspace's rule hears of nothing but its own."""
    return {name: kind for name, kind in KINDS.items() if platform or not kind.platform}
