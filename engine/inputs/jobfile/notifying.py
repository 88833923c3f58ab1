"""Reads the `notify` mapping of a job or a config into a `NotifySpec`. No I/O.

A webhook's URL is a secret: everybody who has it can post there. So a file or a variable holds it, and no message
repeats what somebody wrote in its place.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from engine.api.names import did_you_mean, shown
from engine.inputs.job import NOTICES, NotifySpec
from engine.inputs.jobfile.fields import Fields, kinds
from engine.inputs.jobfile.filemodel import Notify, Webhook
from engine.inputs.jobfile.nodes import Scalar, Series, Table

if TYPE_CHECKING:
    from engine.inputs.jobfile.nodes import Node

_VARIABLE = "[A-Za-z_][A-Za-z0-9_]{0,99}"
_NEVER_THE_URL = (
    "a webhook's URL is a secret and never stands in this file; put it into another one, or into the environment, and "
    "write {url_file: FILE} or {url_env: NAME}"
)


def read_notify(fields: Fields, node: Node) -> NotifySpec | None:
    """Return the `notify` mapping as a value; None if something is wrong (noted)."""
    before = fields.problems.count
    table = fields.table(node, "notify", "a mapping with command, webhook or both, and perhaps on")
    if table is None:
        return None
    fields.keys(table, "notify", kinds(Notify))
    found = {name: entry.value for name, entry in table.entries.items()}
    if "command" not in found and "webhook" not in found and fields.problems.count == before:
        fields.wrong(node, "notify", "says neither command nor webhook: nobody would be told; add one or remove it")
    command = _command(fields, found["command"]) if "command" in found else ()
    url_file, url_env = _webhook(fields, found["webhook"]) if "webhook" in found else ("", "")
    on = _events(fields, found["on"]) if "on" in found else ("failure",)
    env = _variables(fields, found["env"]) if "env" in found else ()
    if fields.problems.count > before:
        return None
    return NotifySpec(place=fields.place(node), command=command, url_file=url_file, url_env=url_env, on=on, env=env)


def _command(fields: Fields, node: Node) -> tuple[str, ...]:
    items = fields.series(node, "notify.command", "a list: [program, argument, …]; it is run without a shell")
    argv = []
    for index, item in enumerate(items.items if items is not None else ()):
        here = f"notify.command[{index}]"
        if type(item) is not Scalar or (index == 0 and not item.text):
            fields.text(item, here, "one argument" if index else "the program to run")
        else:
            argv.append(item.text)
    return tuple(argv)


def _variables(fields: Fields, node: Node) -> tuple[str, ...]:
    items = fields.series(node, "notify.env", "a list of names of environment variables")
    names = []
    for index, item in enumerate(items.items if items is not None else ()):
        here = f"notify.env[{index}]"
        name = fields.text(item, here, "the name of an environment variable")
        if name is None:
            continue
        if not re.fullmatch(_VARIABLE, name):
            fields.wrong(item, here, "expected the name of an environment variable, such as PAGER_TOKEN")
        elif name.upper().startswith("TENCENTCLOUD_"):
            fields.wrong(item, here, "API keys are never passed on to who tells people; remove it")
        names.append(name)
    return tuple(dict.fromkeys(names))


def _webhook(fields: Fields, node: Node) -> tuple[str, str]:
    """Return file and variable of the webhook's URL; the one that is not used is empty."""
    if type(node) is not Table:
        fields.wrong(node, "notify.webhook", _NEVER_THE_URL)
        return "", ""
    if "url" in node.entries:
        fields.wrong(node.entries["url"].value, "notify.webhook.url", _NEVER_THE_URL)
        return "", ""
    fields.keys(node, "notify.webhook", kinds(Webhook))
    given = [name for name in kinds(Webhook) if name in node.entries]
    if len(given) != 1:
        found = f"{' and '.join(given)} together" if given else "neither"
        fields.wrong(node, "notify.webhook", f"expected one of url_file, url_env, got {found}")
        return "", ""
    entry, here = node.entries[given[0]], f"notify.webhook.{given[0]}"
    if given[0] == "url_file":
        file = fields.text(entry.value, here, "the path of a file that holds the URL")
        if file is not None and re.match("https?://", file):
            fields.wrong(entry.value, here, _NEVER_THE_URL)
        return _beside(fields.file, file or ""), ""
    name = fields.text(entry.value, here, "the name of an environment variable")
    if name is not None and not re.fullmatch(_VARIABLE, name):
        fields.wrong(entry.value, here, "expected the name of an environment variable, such as PAGER_WEBHOOK")
    return "", name or ""


def _beside(file: str, path: str) -> str:
    """Return a path written in `file`, relative to that file; `~/` stays, as the reader of the path expands it."""
    return path if not path or path.startswith("~/") else posixpath.join(posixpath.dirname(file), path)


def _events(fields: Fields, node: Node) -> tuple[str, ...]:
    listed = type(node) is Series and bool(node.items)
    found = []
    for index, item in enumerate(node.items if type(node) is Series and node.items else [node]):
        here = f"notify.on[{index}]" if listed else "notify.on"
        text = fields.text(item, here, f"one of {', '.join(NOTICES)}")
        if text is not None and text not in NOTICES:
            hint = did_you_mean(text, NOTICES)
            fields.wrong(item, here, f"{shown(text)} is not one of {', '.join(NOTICES)}{hint}")
        found.append(text or "")
    return tuple(dict.fromkeys(found))
