"""Texts are put in lower or upper case by a locale that every machine has."""

import onnx

PORTABLE = "C.UTF-8"
"""Part of glibc, and its cases are those of Unicode: https://sourceware.org/glibc/wiki/Proposals/C.UTF-8."""
_DEFAULTS = frozenset({"", "en_US", "en_US.UTF-8", "en_US.utf8", "en-US"})


def make_portable(model: onnx.ModelProto) -> bool:
    """Give `StringNormalizer` nodes of the default locale one that images without locales have; tells if any.

    ONNX Runtime asks the system for `en_US.UTF-8` where a model names none, and fails where it is missing:
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/cpu/text/string_normalizer.cc
    """
    changed = False
    for node in _nodes(model.graph):
        if node.op_type != "StringNormalizer" or node.domain not in ("", "ai.onnx"):
            continue
        named = [a for a in node.attribute if a.name == "locale"]
        if any(a.s.decode(errors="replace") not in _DEFAULTS for a in named):
            continue
        for attribute in named:
            node.attribute.remove(attribute)
        node.attribute.append(onnx.helper.make_attribute("locale", PORTABLE))
        changed = True
    return changed


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found += _nodes(inner)
    return found
