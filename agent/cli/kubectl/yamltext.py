"""YAML as kubectl reads and writes it (sigs.k8s.io/yaml), on top of PyYAML.

Reading: no dates (an API object has none; they stay text), map keys are text, and a key given twice is an error that
names the line. Writing: keys sorted, lists not indented, text that would be read as something else in double quotes,
text of several lines as a block.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml


class YamlError(Exception):
    """Not YAML, or not YAML an object can be made of; the message has the line."""


class _Loader(yaml.CSafeLoader):
    """CSafeLoader without dates, with text keys, refusing a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = _key(self.construct_object(key_node, deep=True)) if key_node.tag != _MERGE else ""
            if key in seen and key_node.tag != _MERGE:
                raise YamlError(f'line {key_node.start_mark.line + 1}: key "{key}" already set in map')
            seen.add(key)
        self.flatten_mapping(node)
        return {
            _key(self.construct_object(key_node, deep=True)): self.construct_object(value_node, deep=deep)
            for key_node, value_node in node.value
        }


_MERGE = "tag:yaml.org,2002:merge"


def _key(key: Hashable) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    return str(key)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, expression) for tag, expression in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def load_documents(text: str) -> list[Any]:
    """All documents of a text; empty ones are left out. JSON is YAML, so it is read too. Raises YamlError."""
    try:
        return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise YamlError(f"{line}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise YamlError(str(error)) from error


class _Dumper(yaml.CSafeDumper):
    pass


_INDICATOR = "tag:yaml.org,2002:yaml"  # a lone !, & or *
# What YAML 1.1 would read as something other than text, beyond what PyYAML's own resolver knows.
_AMBIGUOUS = re.compile(r"(?:[yYnN]|[-+]?\d[\d_]*(?:\.\d*)?(?:[eE][-+]?\d+)?|[-+]?\.\d+(?:[eE][-+]?\d+)?|0o[0-7]+)\Z")


def _represent_text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    tag = "tag:yaml.org,2002:str"
    if "\n" in text:
        return dumper.represent_scalar(tag, text, style="|")
    read_as = dumper.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    ambiguous = read_as not in (tag, _INDICATOR) or _AMBIGUOUS.match(text)
    return dumper.represent_scalar(tag, text, style='"' if ambiguous else None)


_Dumper.add_representer(str, _represent_text)
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


def dump_document(value: Any) -> str:
    """One document, ending with a line break."""
    return str(
        yaml.dump(value, Dumper=_Dumper, default_flow_style=False, sort_keys=True, allow_unicode=True, width=2**31 - 1)
    )
