"""buildah with a storage of its own below the cache, so that nobody else's images are touched."""

import os
import shutil
import subprocess
from pathlib import Path

from e2e.cluster import from_host, mounts
from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError
from e2e.cluster.wait import last_lines

_BUILD_SECONDS = 30 * 60
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Buildah:
    """Commands of buildah on one storage."""

    def __init__(self, cache: Path) -> None:
        """`cache` is the project's cache folder."""
        self.storage = cache / "buildah"
        # What is mounted is true for one boot only.
        self._run_root = self.storage / f"run-{_BOOT_ID.read_text().strip()[:8]}"
        self._temporary = self.storage / "tmp"

    def prepare(self) -> None:
        """Clear what killed builds left: their containers and mounts. The caller holds the images' lock."""
        self._temporary.mkdir(parents=True, exist_ok=True)
        for left in self.storage.glob("run-*"):
            if left != self._run_root:
                shutil.rmtree(left, ignore_errors=True)
        mounts.detach_inside(self.storage)
        self.run("rm", "--all")

    def run(self, *arguments: str | Path, seconds: float = 120) -> str:
        """Run one command and return what it prints; raises ClusterError with its message."""
        return run(self._command(*arguments), seconds=seconds, env=self._environment())

    def image_id(self, name: str) -> str:
        """The id of an image in the storage; empty when there is none of this name."""
        try:
            return self.run("images", "--quiet", "--no-trunc", name).strip()
        except ClusterError:
            return ""

    def build(
        self,
        dockerfile: Path,
        context: Path,
        name: str,
        *,
        log: Path,
        target: str = "",
    ) -> None:
        """Build a Dockerfile as `docker build` would, reusing layers; its output goes to `log`."""
        options: list[str | Path] = ["--isolation", "chroot", "--layers", "--network", "host", "--pull=never"]
        options += [f"--target={target}"] if target else []
        if bundle := from_host.ca_bundle():
            options += ["--volume", f"{bundle}:{from_host.CA_IN_BUILD}:ro", *from_host.CA_OPTIONS]
        if mirror := os.environ.get("PIP_INDEX_URL"):
            options += [f"--build-arg=PIP_INDEX_URL={mirror}"]
        command = self._command("build", *options, "--file", dockerfile, "--tag", name, context)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            try:
                answer = subprocess.run(
                    ["nice", "-n", "10", *command],
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=_BUILD_SECONDS,
                    env=self._environment(),
                )
                failure = f"failed with exit code {answer.returncode}" if answer.returncode else ""
            except subprocess.TimeoutExpired:
                failure = f"did not end in {_BUILD_SECONDS // 60} minutes"
        if failure:
            raise ClusterError(
                f"building {name} {failure}.\n  last lines of {log}:\n{last_lines(log)}\n"
                "  next step: for a download, see that the package index can be reached; then run again"
            )

    def _command(self, *arguments: str | Path) -> list[str]:
        roots = ["--root", self.storage / "root", "--runroot", self._run_root, "--storage-driver", "overlay"]
        return [str(word) for word in ("buildah", *roots, *arguments)]

    def _environment(self) -> dict[str, str]:
        # Cache mounts of builds lie below TMPDIR.
        return dict(os.environ) | {"TMPDIR": str(self._temporary)}
