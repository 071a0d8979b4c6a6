"""Runs longshore-triton where Triton finds no GPU: copies for GPUs run on the CPU, without accelerators.

A program, not for import: it changes the package.
"""

from typing import Any

from longshore_triton import cli, generate, modelconfig

_add_instances = generate.add_instances


def _on_the_cpu(config: Any, *arguments: Any) -> None:
    _add_instances(config, *arguments)
    for group in config.instance_group:
        group.kind = modelconfig.kind("CPU")
        del group.gpus[:]


if __name__ == "__main__":
    generate.add_instances = _on_the_cpu
    generate.add_accelerator = lambda config, wanted: None
    raise SystemExit(cli.main())
