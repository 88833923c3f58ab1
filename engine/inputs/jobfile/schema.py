"""JSON Schema of the job file, from the same models that read it, for editors. No I/O.

`engine/job.schema.json` is a committed copy, so that an editor finds it beside the shipped jobs.
`acctops schema > engine/job.schema.json` writes it; a test checks that it is current.
"""

from __future__ import annotations

from typing import Any

from engine.api import names
from engine.api.actions import ACTIONS
from engine.inputs.jobfile.fields import kinds, rule
from engine.inputs.jobfile.filemodel import AccountEntry, JobFile, TargetEntry

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def job_schema() -> dict[str, Any]:
    """Return the schema as a JSON object. Any: JSON."""
    import msgspec

    (reference,), parts = msgspec.json.schema_components([JobFile], ref_template="#/$defs/{name}")
    _, more = msgspec.json.schema_components([TargetEntry, AccountEntry], ref_template="#/$defs/{name}")
    parts |= more
    top = parts.pop(reference["$ref"].rpartition("/")[2])
    parts["TargetEntry"]["oneOf"] = [
        {"required": keys} for keys in (["instance", "user"], ["csv"], ["jsonl"], ["match"])
    ]
    parts["UsersOf"]["minProperties"] = 1
    user = {"type": "string", "pattern": f"^{names.ANY_USER_PATTERN}$"}
    parts["UsersOfInstances"] = {
        "description": "Instance ids with an account name, or a list of them.",
        "type": "object",
        "minProperties": 1,
        "patternProperties": {
            f"^{names.INSTANCE_PATTERN}$": {"anyOf": [user, {"type": "array", "items": user, "minItems": 1}]}
        },
        "additionalProperties": False,
    }
    top["properties"]["targets"]["items"] = {
        "anyOf": [
            {
                "description": "instance/user",
                "type": "string",
                "pattern": f"^{names.INSTANCE_PATTERN}/{names.ANY_USER_PATTERN}$",
            },
            {"$ref": "#/$defs/UsersOfInstances"},
            {"$ref": "#/$defs/TargetEntry"},
        ]
    }
    one_of = msgspec.json.schema(rule(kinds(AccountEntry)["profile"])["each"])
    parts["AccountEntry"]["properties"]["profile"]["anyOf"] = [
        one_of,
        {"type": "array", "items": one_of, "minItems": 1},
    ]
    parts["AccountEntry"]["anyOf"] = [{"required": ["profile"]}, {"required": ["role_arn"]}]
    top["properties"]["accounts"]["items"] = {"anyOf": [one_of, {"$ref": "#/$defs/AccountEntry"}]}
    for key, kind in kinds(JobFile).items():
        if "each" in rule(kind):
            one = msgspec.json.schema(rule(kind)["each"])
            one.pop("description", None)
            top["properties"][key]["anyOf"] = [one, {"type": "array", "items": one, "minItems": 1}]
    for key in ("name", "reason", "ticket", "stop_after"):  # we read them as text; an editor reads an unquoted number
        top["properties"][key]["type"] = ["string", "integer"]
    with_password = [name for name, action in ACTIONS.items() if action.needs_password]
    undone_with = [
        name
        for name, action in ACTIONS.items()
        if action.inverse is not None and ACTIONS[action.inverse].needs_password
    ]
    sets = {"properties": {"action": {"enum": with_password}}, "required": ["action"]}
    takes_back = {
        "properties": {"action": {"enum": undone_with}, "on_red": {"const": "undo"}},
        "required": ["action", "on_red"],
    }
    top["if"] = {"anyOf": [sets, takes_back]}
    top["then"] = {"required": ["passwords"]}
    top["else"] = {"properties": {"passwords": False}}
    parts["Webhook"]["minProperties"] = parts["Webhook"]["maxProperties"] = 1
    parts["Notify"]["anyOf"] = [{"required": ["command"]}, {"required": ["webhook"]}]
    parts["HoldKeys"]["oneOf"] = [{"required": ["for"]}, {"required": ["until"]}]
    parts["WatchKeys"]["anyOf"] = [{"required": ["after"]}, {"required": ["every"]}]
    parts["WatchKeys"]["dependentRequired"] = {"every": ["for"], "for": ["every"]}
    parts["WaveKeys"]["properties"]["take"]["type"] = ["string", "integer"]
    top["dependentRequired"] = {"gate": ["waves"], "on_red": ["gate"]}
    parts["Passwords"]["oneOf"] = [{"required": [key]} for key in ("command", "file", "env")]
    parts["Passwords"]["dependentRequired"] = {"stored": ["command"]}
    return {"$schema": DRAFT, **top, "title": "acctops job", "$defs": parts}


def schema_text() -> str:
    """Return the schema as it is committed: indented by two spaces, one newline at the end."""
    import json

    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"
