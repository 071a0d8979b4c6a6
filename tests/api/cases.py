"""Specs that are refused, each with the words it is refused by; and specs that are taken."""

from typing import Any

Spec = dict[str, Any]
URI = "https://models.example/m.onnx"
SHA = "0" * 64


def spec(**parts: Any) -> Spec:
    """Give a spec with a model and these parts."""
    return {"model": {"uri": URI}, **parts}


RULES: dict[str, tuple[Spec, str]] = {
    "pickle-unpinned": (
        {"model": {"uri": URI, "allowPickle": True}},
        "pin the file with model.sha256",
    ),
    "factory-in-a-file-without-opt-in": (
        {"model": {"uri": URI, "factory": "model.py:build"}},
        "set model.allowPickle",
    ),
    "packaging-image-on-triton": (
        spec(serving={"runtime": "Triton", "packaging": "Image"}),
        "set runtime to OnnxRuntime, or packaging to Volume",
    ),
    "custom-metric-without-function": (
        spec(optimize={"evaluation": {"uri": URI, "metric": "Custom"}}),
        "metric: Custom and evaluation.function belong together",
    ),
    "function-without-custom-metric": (
        spec(optimize={"evaluation": {"uri": URI, "function": {"uri": URI, "sha256": SHA}}}),
        "metric: Custom and evaluation.function belong together",
    ),
    "fail-without-gate": (
        spec(optimize={"onMiss": "Fail"}),
        "add optimize.evaluation or optimize.limits",
    ),
    "auto-and-more": (
        spec(optimize={"techniques": ["Auto", "Float16"]}),
        "Auto stands alone: remove it",
    ),
    "training-without-data": (
        spec(optimize={"techniques": ["Distillation"]}),
        "add optimize.training",
    ),
    "steps-fall": (
        spec(rollout={"steps": [{"weight": 50}, {"weight": 10}]}),
        "give each step a weight above the one before",
    ),
    "steps-stand-still": (
        spec(rollout={"steps": [{"weight": 50}, {"weight": 50}]}),
        "give each step a weight above the one before",
    ),
    "steps-of-blue-green": (
        spec(rollout={"strategy": "BlueGreen", "steps": [{"weight": 50}]}),
        "remove them or change the strategy",
    ),
    "harm-below-margin": (
        spec(rollout={"analysis": {"margin": 4, "harm": 2}}),
        "raise harm or lower margin",
    ),
    "margin-above-default-harm": (
        spec(rollout={"analysis": {"margin": 4}}),
        "raise harm or lower margin",
    ),
    "two-signals-of-one-name": (
        spec(
            rollout={
                "analysis": {"signals": [{"name": "a", "type": t} for t in ("Agreement", "Distribution")]}
            }
        ),
        "analysis.signals must have different names",
    ),
    "signal-prometheus-without-query": (
        spec(rollout={"analysis": {"signals": [{"name": "a", "type": "Prometheus", "max": 1}]}}),
        "type Prometheus needs query and address: add both",
    ),
    "signal-prometheus-without-bound": (
        spec(
            rollout={
                "analysis": {
                    "signals": [
                        {"name": "a", "type": "Prometheus", "query": "up", "address": "http://p:9090"}
                    ]
                }
            }
        ),
        "add max, min or maxRatio",
    ),
    "signal-web-hook-without-address": (
        spec(rollout={"analysis": {"signals": [{"name": "a", "type": "WebHook"}]}}),
        "type WebHook needs address: add it",
    ),
    "affinity-of-both": (
        spec(rollout={"affinity": {"header": "x-user", "cookie": "user"}}),
        "give exactly one",
    ),
    "affinity-of-none": (spec(rollout={"affinity": {}}), "give exactly one"),
    "min-above-max": (spec(scaling={"min": 3, "max": 2}), "raise max or lower min"),
    "max-zero": (spec(scaling={"max": 0}), "scaling.max of 0 needs scaling.min: 0"),
    "hpa-to-zero": (
        spec(scaling={"engine": "HPA", "min": 0, "max": 2}),
        "set scaling.min to 1, or engine to Builtin or KEDA",
    ),
    "metric-prometheus-without-query": (
        spec(scaling={"metrics": [{"type": "Prometheus", "target": 5}]}),
        "type Prometheus needs query and serverAddress: add both",
    ),
    "metric-query-unread": (
        spec(scaling={"metrics": [{"type": "Concurrency", "target": 5, "query": "up"}]}),
        "remove it or change the type",
    ),
    "metric-latency-target": (
        spec(scaling={"metrics": [{"type": "Latency", "target": 5}]}),
        "set duration, remove target",
    ),
    "metric-duration-of-zero": (
        spec(scaling={"metrics": [{"type": "Latency", "duration": "0s"}]}),
        "give one above 0",
    ),
    "metric-concurrency-duration": (
        spec(scaling={"metrics": [{"type": "Concurrency", "duration": "5s"}]}),
        "set target, remove duration",
    ),
    "triton-on-onnx-runtime": (
        spec(serving={"triton": {"allowPython": False}}),
        "set runtime to Triton or Auto, or remove it",
    ),
    "route-to-nowhere": (spec(route={}), "name it in route.parentRefs"),
    "route-to-an-empty-list": (spec(route={"parentRefs": []}), "name it in route.parentRefs"),
}
"""Every rule across fields, at least once."""

OUT_OF_RANGE: dict[str, Spec] = {
    "no-model": {"serving": {"replicas": 1}},
    "no-uri": {"model": {}},
    "unknown-scheme": {"model": {"uri": "ftp://models.example/m.onnx"}},
    "plain-http": {"model": {"uri": "http://models.example/m.onnx"}},
    "blank-in-uri": {"model": {"uri": "https://models.example/a b"}},
    "line-feed-after-uri": {"model": {"uri": URI + "\n"}},
    "endless-uri": {"model": {"uri": "https://" + "a" * 2048}},
    "short-digest": {"model": {"uri": URI, "sha256": "0" * 63}},
    "capital-digest": {"model": {"uri": URI, "sha256": "A" * 64}},
    "secret-elsewhere": {"model": {"uri": URI, "credentials": {"secretName": "other/secret"}}},
    "unknown-format": {"model": {"uri": URI, "format": "Caffe"}},
    "negative-replicas": spec(serving={"replicas": -1}),
    "too-many-replicas": spec(serving={"replicas": 1001}),
    "half-a-replica": spec(serving={"replicas": 1.5}),
    "replicas-as-text": spec(serving={"replicas": "2"}),
    "replicas-as-truth": spec(serving={"replicas": True}),
    "truth-as-number": {"model": {"uri": URI, "allowPickle": 1}},
    "duration-without-unit": spec(rollout={"progressDeadline": "30"}),
    "duration-as-number": spec(rollout={"progressDeadline": 30}),
    "duration-and-line-feed": spec(rollout={"progressDeadline": "30s\n"}),
    "negative-quantity": spec(serving={"resources": {"limits": {"cpu": -1}}}),
    "fraction-as-quantity": spec(serving={"resources": {"limits": {"cpu": 0.5}}}),
    "quantity-with-unknown-unit": spec(serving={"resources": {"limits": {"memory": "1GB"}}}),
    "alpha-of-zero": spec(rollout={"analysis": {"falseAbort": 0}}),
    "alpha-of-half": spec(rollout={"analysis": {"falseAbort": 0.5}}),
    "weight-above-100": spec(rollout={"steps": [{"weight": 101}]}),
    "no-techniques": spec(optimize={"techniques": []}),
    "unknown-technique": spec(optimize={"techniques": ["Magic"]}),
    "confidence-of-one": spec(optimize={"evaluation": {"uri": URI, "confidence": 1}}),
    "too-many-steps": spec(rollout={"steps": [{"weight": w} for w in range(1, 34)]}),
    "too-many-labels": spec(serving={"podTemplate": {"labels": {f"l{i}": "v" for i in range(33)}}}),
    "wrong-toleration": spec(serving={"podTemplate": {"tolerations": [{"operator": "Near"}]}}),
    "capital-host": spec(route={"parentRefs": [{"name": "g"}], "hostnames": ["Models.example"]}),
    "relative-path": spec(route={"parentRefs": [{"name": "g"}], "pathPrefix": "models"}),
    "port-zero": spec(route={"parentRefs": [{"name": "g", "port": 0}]}),
    "serving-as-list": spec(serving=[]),
    "target-of-zero": spec(scaling={"metrics": [{"type": "Concurrency", "target": 0}]}),
    "negative-target": spec(scaling={"metrics": [{"type": "RequestsPerSecond", "target": -1}]}),
    "negative-min": spec(scaling={"min": -1}),
    "too-many-warm-copies": spec(scaling={"min": 0, "warm": 11}),
    "steps-as-object": spec(rollout={"steps": {}}),
}
"""Specs that the schema refuses."""

TAKEN: dict[str, Spec] = {
    "least": spec(),
    "whole-number-of-cpus": spec(serving={"resources": {"limits": {"cpu": 2, "memory": "2Gi"}}}),
    "nulls": {"model": {"uri": URI, "sha256": None}, "scaling": {"min": None}, "route": None},
    "empty-parts": spec(optimize={}, serving={}, scaling={}, rollout={}),
    "whole-float": spec(serving={"batching": {"maxSize": 8.0}}),
    "umlaut-in-uri": {"model": {"uri": "s3://bucket/größe.onnx"}},
    "fixed-space-in-uri": {"model": {"uri": "s3://bucket/a\u00a0b.onnx"}},
    "pinned-pickle": {"model": {"uri": URI, "allowPickle": True, "sha256": SHA}},
    "factory": {"model": {"uri": URI, "allowPickle": True, "sha256": SHA, "factory": "nets/model.py:build"}},
    "factory-of-a-package": {"model": {"uri": URI, "factory": "torchvision.models:resnet18"}},
    "custom-metric": spec(
        optimize={"evaluation": {"uri": URI, "metric": "Custom", "function": {"uri": URI, "sha256": SHA}}}
    ),
    "zero": spec(scaling={"min": 0, "max": 0}),
    "hpa": spec(scaling={"engine": "HPA", "min": 1, "max": 4}),
    "min-above-default-max": spec(scaling={"min": 3}),
    "triton": spec(serving={"runtime": "Triton", "triton": {"image": "registry.example/triton:1"}}),
    "grpc-route": spec(route={"grpcParentRefs": [{"name": "g"}]}),
    "wild-host": spec(route={"parentRefs": [{"name": "g"}], "hostnames": ["*.models.example"]}),
    "gate-of-a-preview": spec(
        rollout={"strategy": "BlueGreen", "steps": [{"weight": 0, "pause": {"reason": "try it"}}]}
    ),
    "free-affinity": spec(serving={"podTemplate": {"affinity": {"nodeAffinity": {"any": [{"x": 1}]}}}}),
    "everything": {
        "model": {
            "uri": "oci://registry.example/models/digits:1",
            "format": "Onnx",
            "sha256": SHA,
            "signature": {"publicKey": {"secretName": "key"}},
            "credentials": {"secretName": "registry"},
        },
        "optimize": {
            "goal": "Size",
            "techniques": ["Float16", "StaticInt8", "Distillation"],
            "calibration": {"uri": URI},
            "evaluation": {"uri": URI, "metric": "F1", "maxDrop": 0, "confidence": 0.99},
            "training": {"uri": URI, "epochs": 3, "teacher": URI},
            "limits": {"p95": "20ms", "size": "20Mi"},
            "budget": {"trials": 5, "time": "1h30m"},
            "parallelism": 2,
            "onMiss": "Fail",
            "exports": ["TFLite", "Ort"],
            "tensorBoard": True,
            "resources": {"limits": {"cpu": 4, "memory": "8Gi"}},
            "seed": 7,
        },
        "serving": {
            "runtime": "Auto",
            "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "2", "memory": "1Gi"}},
            "batching": {"maxSize": 8, "maxDelay": "5ms", "queue": 100},
            "replicas": 2,
            "latencyObjective": "100ms",
            "podTemplate": {
                "labels": {"team": "vision"},
                "annotations": {"note": "a b"},
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
                ],
                "priorityClassName": "high",
                "imagePullSecrets": [{"secretName": "pull"}],
                "env": [{"name": "A", "value": "b"}],
            },
            "triton": {"allowPython": True},
        },
        "scaling": {
            "min": 0,
            "max": 8,
            "metrics": [
                {"type": "Concurrency", "target": 4},
                {"type": "Latency", "duration": "50ms", "percentile": 0.99},
                {"type": "Prometheus", "target": 3, "query": "up", "serverAddress": "http://p:9090"},
            ],
            "schedules": [{"start": "0 8 * * 1-5", "duration": "10h", "min": 2, "timeZone": "Europe/Berlin"}],
            "forecast": {"period": "24h"},
            "budget": {"name": "team", "maxReplicas": 20},
        },
        "rollout": {
            "steps": [{"weight": 5, "hold": "1m"}, {"weight": 50, "pause": {"reason": "look"}}],
            "analysis": {"margin": 1.5, "harm": 2, "signals": [{"name": "psi", "type": "Distribution"}]},
            "preflight": {"samples": 0},
            "affinity": {"header": "x-user"},
            "progressDeadline": "5m",
            "revisionHistory": 0,
            "notifications": [{"url": "https://hooks.example/x"}],
        },
        "route": {
            "parentRefs": [{"name": "g", "namespace": "gateways", "sectionName": "https", "port": 443}],
            "hostnames": ["m.example"],
            "pathPrefix": "/digits",
        },
    },
}
"""Specs that are taken as they are."""
