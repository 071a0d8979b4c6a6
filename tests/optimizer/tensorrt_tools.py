"""Stand-ins for `trtexec` and `nvidia-smi`, which need a GPU: they take the same flags, print the same banner
and write the same files. An engine of theirs is a header and the ONNX model, which ONNX Runtime runs."""

import stat
import sys
from pathlib import Path

HEADER = b"stand-in for a TensorRT engine\n"

_SMI = """#!/bin/sh
case "$*" in
  "--query-gpu=name,compute_cap,driver_version --format=csv,noheader") echo "{row}" ;;
  "-L") printf '%s\\n' "GPU 0: NVIDIA A10G (UUID: GPU-5f2d)" {slices} ;;
  *) echo "Field \\"$1\\" is not a valid field to query." ; exit 2 ;;
esac
"""

_TRTEXEC = """#!{python}
import json, os, pathlib, re, sys, time
import numpy as np, onnxruntime as ort

MODE, HEADER = {mode!r}, {header!r}
VERSION = {version!r}
known = ("onnx saveEngine fp16 minShapes optShapes maxShapes skipInference loadEngine loadInputs shapes "
         "exportOutput exportTimes warmUp duration iterations help").split()
print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{{VERSION}}] [b34] # {{' '.join(sys.argv)}}", flush=True)


def fail(words):
    print(f"[11/20/2026-10:00:00] [E] {{words}}")
    print(f"&&&& FAILED TensorRT.trtexec [TensorRT v{{VERSION}}] [b34] # trtexec")
    sys.exit(1)


flags = {{}}
for word in sys.argv[1:]:
    name, _, value = word.removeprefix("--").partition("=")
    if not word.startswith("--") or name not in known or (name == "fp16" and VERSION >= 110000):
        fail(f"Unknown option: --{{name}} {{value}}")
    flags[name] = value
if "help" in flags:
    print("=== Model Options ===")
    sys.exit(0)


def pairs(text):
    found = {{}}
    for part in filter(None, text.split(",")):
        if "'" in part:
            _, name, value = part.split("'")
            found[name] = value[1:]
        else:
            name, _, value = part.rpartition(":")
            found[name] = value
    return found


if "onnx" in flags:
    if MODE == "fails":
        fail("[optimizer.cpp::computeCosts::4160] Error Code 10: No implementation for node Det.")
    if MODE == "crashes":
        os.abort()
    if MODE == "hangs":
        time.sleep(60)
    path = pathlib.Path(flags["onnx"])
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    free = {{i.name for i in session.get_inputs() if any(not isinstance(d, int) for d in i.shape)}}
    for flag in ("minShapes", "optShapes", "maxShapes"):
        if set(pairs(flags.get(flag, ""))) != free:
            fail(f"{{flag}} names {{flags.get(flag)}} and the dynamic inputs are {{free}}")
    with open(flags["saveEngine"], "wb") as file:
        file.write(HEADER + path.read_bytes())
    print("[11/20/2026-10:00:00] [I] Engine built in 11.3 sec.")
elif "loadEngine" in flags:
    plan = pathlib.Path(flags["loadEngine"]).read_bytes()
    if not plan.startswith(HEADER):
        fail("Error Code 1: Serialization (Serialization assertion plan->header.magicTag failed.)")
    session = ort.InferenceSession(plan[len(HEADER):], providers=["CPUExecutionProvider"])
    files, shapes = pairs(flags["loadInputs"]), pairs(flags.get("shapes", ""))
    feeds = {{}}
    for i in session.get_inputs():
        shape = [int(s) for s in shapes[i.name].split("x")] if i.name in shapes else i.shape
        dtype = {{"tensor(float)": "float32", "tensor(int64)": "int64"}}[i.type]
        feeds[i.name] = np.fromfile(files[i.name], dtype).reshape(shape)
    if MODE == "cannot run":
        fail("[executionContext.cpp::enqueueV3::2666] Error Code 1: Cuda Runtime (out of memory)")
    answers = session.run(None, feeds)
    if "exportOutput" in flags:
        with open(flags["exportOutput"], "w") as file:
            file.write("[\\n")
            separator = "  "
            for o, value in zip(session.get_outputs(), answers):
                values = -value[..., ::-1] if MODE == "wrong" else value
                texts = [format(v, "g") for v in values.ravel().tolist()]
                file.write(f'{{separator}}{{{{ "name" : "{{o.name}}"\\n  , "dimensions" : "')
                file.write("x".join(map(str, value.shape)))
                file.write(f'"\\n  , "values" : [ {{", ".join(texts)}} ]\\n  }}}}\\n')
                separator = ", "
            file.write("]\\n")
    if "exportTimes" in flags:
        times = [{{"startEnqMs": 0.0, "computeMs": 0.4, "latencyMs": 0.5}}] * 9 + [{{"latencyMs": 2.0}}]
        pathlib.Path(flags["exportTimes"]).write_text(json.dumps(times))
print(f"&&&& PASSED TensorRT.trtexec [TensorRT v{{VERSION}}] [b34] # trtexec")
"""


def install(
    directory: Path,
    mode: str = "",
    version: int = 100900,
    row: str = "NVIDIA A10G, 8.6, 550.54.15",
    slices: str = "",
) -> Path:
    """Write both programs into a directory for the PATH.

    `mode` is how trtexec misbehaves: `fails`, `crashes`, `hangs`, `wrong`, `cannot run`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    nvidia_smi(directory, row, slices)
    _executable(
        directory / "trtexec",
        _TRTEXEC.format(python=sys.executable, mode=mode, header=HEADER, version=version),
    )
    return directory


def nvidia_smi(directory: Path, row: str = "NVIDIA A10G, 8.6, 550.54.15", slices: str = "") -> None:
    """Write nvidia-smi alone; `row` is what it answers, `slices` a MIG slice as `-L` lists it."""
    directory.mkdir(parents=True, exist_ok=True)
    _executable(directory / "nvidia-smi", _SMI.format(row=row, slices=f'"{slices}"' if slices else ""))


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
