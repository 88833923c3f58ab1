"""`schema`: the JSON Schema for editors says what the parser says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from engine.api.actions import ACTIONS
from engine.inputs.jobfile.fields import convert, kinds
from engine.inputs.jobfile.filemodel import JobFile, Limits
from engine.inputs.jobfile.schema import job_schema, schema_text

ROOT = Path(__file__).parents[2]


def test_the_committed_schema_is_current():
    """`acctops schema > engine/job.schema.json` makes it so."""
    assert (ROOT / "engine/job.schema.json").read_text(encoding="utf-8") == schema_text()


def test_the_schema_has_the_keys_the_parser_takes():
    """Nothing more, and every one described."""
    schema = job_schema()
    assert list(schema["properties"]) == list(kinds(JobFile))
    assert schema["required"] == ["action", "targets"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["action"]["enum"] == list(ACTIONS)
    for key, value in schema["properties"].items():
        described = schema["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else value
        assert described["description"], key


def test_the_limits_of_the_schema_are_those_of_the_parser():
    """An editor marks what the parser refuses, and nothing else."""
    schema = job_schema()
    limits = schema["$defs"]["JobLimits"]
    assert limits["additionalProperties"] is False
    pattern = limits["properties"]["max_share"]["pattern"]
    kind = kinds(Limits)["max_share"]
    for text in (
        "5%",
        "0.5%",
        "99.999%",
        "100%",
        "100.000%",
        "0%",
        "00.0%",
        "0.000%",
        "100.1%",
        "101%",
        "5",
        "x%",
        "5 %",
    ):
        try:
            convert(text, kind)
            taken = True
        except ValueError:
            taken = False
        assert bool(re.search(pattern, text)) is taken, text
    assert schema["properties"]["order"]["enum"] == ["contain", "listed"]
    assert schema["properties"]["verify"]["type"] == schema["properties"]["resend_already"]["type"] == "boolean"


def test_every_reference_leads_somewhere():
    """An editor shows a broken reference as an error in every file."""
    schema = job_schema()
    names = set(schema["$defs"])

    def walk(node):
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/$defs/") in names
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(schema)
    json.dumps(schema)
