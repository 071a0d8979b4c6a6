"""How many channels a kernel computes at once: fewer of a block cost what the whole block does."""

from longshore.api.optimize import Goal

from longshore_optimizer.techniques.base import TargetFacts, Work

_PARAMETER = "channelBlock"


def asked(target: TargetFacts) -> dict[str, int]:
    """Give the parameter that makes pruning leave whole blocks; none where each channel's bytes count.

    The kernels of ONNX Runtime work on registers of 16 numbers with AVX-512 and on two of them at once with
    AMX. Measured there in 8 bits on EfficientNet-lite0 with 40 % of its products gone, widths of whole blocks
    of 16 or 32 take about 0.8 of the time of any multiples of 8.
    """
    if target.goal is Goal.SIZE:
        return {}
    if "amx_int8" in target.cpu_flags:
        return {_PARAMETER: 32}
    return {_PARAMETER: 16 if "avx512f" in target.cpu_flags else 8}


def of(work: Work) -> int | None:
    """Give the block that the parameters ask for."""
    block = work.parameters.get(_PARAMETER)
    return None if block is None else int(block)
