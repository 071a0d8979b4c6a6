"""Builds the node's programs from Go modules, once for each set of checksums and flags.

A module's programs lie in `<cache>/cluster/modules/<name>-<key>/`, published by one rename, so that a killed
build leaves nothing that looks finished. A set of modules is one folder of hard links beside them:
`<cache>/cluster/<key>/bin`.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.go import environment as go_environment
from e2e.cluster.go import require_go
from e2e.cluster.lock import exclusive
from e2e.cluster.paths import MODULES, cache_root
from e2e.cluster.programs import MODULES_OF_API_SERVER, MODULES_OF_NODE, Module, set_key
from e2e.cluster.wait import last_lines

Say = Callable[[str], None]

_MODULE_SECONDS = 45 * 60
_LOCK_SECONDS = 90 * 60
_PROGRESS_SECONDS = 20


def programs_of_node(say: Say) -> Path:
    """The folder of all programs of a node, built first where the cache does not have them."""
    return ensure(MODULES_OF_NODE, say=say)


def built_programs_of_node() -> Path | None:
    """The folder of all programs of a node if the cache has them; nothing is built."""
    binaries = _set_folder(cache_root(), MODULES_OF_NODE) / "bin"
    return binaries if binaries.is_dir() else None


def programs_of_api_server(say: Say) -> Path:
    """The folder of kube-apiserver, etcd and kubectl, built first where the cache does not have them."""
    return ensure(MODULES_OF_API_SERVER, say=say)


def ensure(modules: tuple[Module, ...], *, say: Say, cache: Path | None = None) -> Path:
    """The `bin` folder of this set of modules, building what is missing.

    Raises ClusterError when Go is missing or too old, or a build fails.
    """
    published = _set_folder(cache or cache_root(), modules)
    base = published.parent
    binaries = published / "bin"
    if binaries.is_dir():
        return binaries
    with exclusive(base / "lock", what="building the cluster's programs", seconds=_LOCK_SECONDS, say=say):
        for left in base.glob(".partial-*"):  # of a build that was killed: the lock proves nobody is at it
            shutil.rmtree(left)
        folders = [_ensure_module(module, base, say) for module in modules]
        if not binaries.is_dir():
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=base))
            (partial / "bin").mkdir()
            for program in (path for folder in folders for path in folder.iterdir()):
                os.link(program, partial / "bin" / program.name)
            partial.chmod(0o755)
            partial.rename(published)
    return binaries


def _set_folder(cache: Path, modules: tuple[Module, ...]) -> Path:
    return cache / "cluster" / set_key(modules)


def _ensure_module(module: Module, base: Path, say: Say) -> Path:
    folder = base / "modules" / f"{module.name}-{module.key()}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=base))
    begun = time.monotonic()
    _install(module, partial, base / "logs" / f"build-{module.name}.log", say)
    for built, name in module.renames.items():
        (partial / built).rename(partial / name)
    missing = [name for name in module.programs if not (partial / name).is_file()]
    if missing:
        raise ClusterError(
            f"the build of {module.name} gave no {', '.join(missing)}.\n"
            f"  next step: compare the `tool` lines of {MODULES / module.name / 'go.mod'} with the programs "
            "that programs.py expects"
        )
    partial.chmod(0o755)
    partial.rename(folder)
    say(f"built {module.name} in {time.monotonic() - begun:.0f} s")
    return folder


def _install(module: Module, target: Path, log: Path, say: Say) -> None:
    go = require_go()
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-trimpath", "-v", "-ldflags", f"-s -w {module.ldflags}", "-tags", module.tags]
    say(f"building {module.name} (log: {log})")
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["nice", "-n", "10", go, "install", *flags, "tool"],
            cwd=MODULES / module.name,
            env=go_environment() | {"CGO_ENABLED": "1" if module.cgo else "0", "GOBIN": str(target)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        done = threading.Event()
        reporter = threading.Thread(target=_report, args=(module.name, log, done, say))
        reporter.start()
        try:
            code = process.wait(timeout=_MODULE_SECONDS)
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"building {module.name} took longer than {_MODULE_SECONDS // 60} minutes.\n"
                f"  last lines of {log}:\n{last_lines(log)}\n"
                "  next step: look for a stuck download (GOPROXY), run again; what is compiled stays cached"
            ) from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            done.set()
            reporter.join()
    if code:
        raise ClusterError(
            f"building {module.name} failed with exit code {code}.\n"
            f"  last lines of {log}:\n{last_lines(log)}\n"
            "  next step: if it is a download, check GOPROXY; if a C header, run `python -m e2e.cluster host`"
        )


def _report(name: str, log: Path, done: threading.Event, say: Say) -> None:
    begun = time.monotonic()
    while not done.wait(_PROGRESS_SECONDS):
        lines = log.read_bytes().splitlines()
        downloads = sum(line.startswith(b"go: downloading") for line in lines)
        say(
            f"  {name}: {len(lines) - downloads} packages compiled, {downloads} modules downloaded, "
            f"{time.monotonic() - begun:.0f} s"
        )
