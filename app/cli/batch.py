"""`volley batch`: a file of recipients, uploaded as it is read, followed to its last receipt."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app import settings
from app.cli.client import Api
from app.cli.terminal import Failure
from app.domain.message import Category, State

CHUNK_BYTES = 64 * 1024
POLL_S = 0.5
SHOWN_REJECTIONS = 10
CONTENT_TYPES = {".csv": "text/csv", ".ndjson": "application/x-ndjson", ".jsonl": "application/x-ndjson"}
FINAL = frozenset(state.name for state in State if state.final)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--body", help="The text; {name} stands for a column of the file.")
@click.option("--template", help="A template's name, instead of --body.")
@click.option(
    "--category", type=click.Choice([c.name for c in Category]), default="transactional", show_default=True
)
@click.option("--sender", help="The from-address.")
@click.option("--no-wait", is_flag=True, help="Return once it is accepted.")
@click.option("--idempotency-key", help="Repeat a broken upload with the same one: nobody gets a text twice.")
def batch(
    *,
    file: Path,
    body: str | None,
    template: str | None,
    category: str,
    sender: str | None,
    no_wait: bool,
    idempotency_key: str | None,
) -> None:
    """Send to every recipient of FILE.

    FILE is CSV whose first row names the columns, `to` (or `phone`) among them, or NDJSON (.ndjson).
    """
    if (body is None) == (template is None):
        raise click.UsageError("give --body or --template")
    wanted = {"category": category, "body": body, "template": template, "sender": sender}
    params = {name: value for name, value in wanted.items() if value is not None}
    upload = Upload(
        file=file,
        size_bytes=file.stat().st_size,
        content_type=CONTENT_TYPES.get(file.suffix.lower(), "text/csv"),
        params=params,
        key=idempotency_key or str(uuid.uuid4()),
    )
    asyncio.run(_batch(Console(), upload, follow=not no_wait))


class Upload(msgspec.Struct, frozen=True):
    """A file on its way to the API."""

    file: Path
    size_bytes: int
    content_type: str
    params: dict[str, str]
    key: str


async def _batch(console: Console, upload: Upload, *, follow: bool) -> None:
    async with Api.from_settings(settings.load()) as api:
        try:
            accepted = await _upload(console, api, upload)
        except Failure as failure:
            raise Failure(f"{failure} (repeat with --idempotency-key {upload.key})") from None
        console.print(f"batch {accepted['id']}: {accepted['accepted']:,} accepted")
        _show_rejections(console, accepted.get("rejected") or [], accepted.get("rejected_count"))
        if not follow or not accepted["accepted"]:
            return
        try:
            last = await _follow(console, api, accepted["id"])
        except (KeyboardInterrupt, asyncio.CancelledError):
            console.print(f"the batch goes on: GET /v1/batches/{accepted['id']}")
            raise
        _show_result(console, last)


async def _upload(console: Console, api: Api, upload: Upload) -> dict[str, Any]:
    """The file as it is read; memory stays the same whatever its length."""
    with _progress(console, "{task.percentage:>3.0f} %") as progress:
        task = progress.add_task("upload", total=upload.size_bytes)

        def body() -> AsyncIterator[bytes]:
            progress.reset(task)
            return _chunks(upload.file, lambda size: progress.advance(task, size))

        return await api.upload("/v1/batches/upload", upload.params, upload.content_type, body, upload.key)


async def _chunks(file: Path, read: Callable[[int], None]) -> AsyncIterator[bytes]:
    with file.open("rb") as content:
        while chunk := await asyncio.to_thread(content.read, CHUNK_BYTES):
            yield chunk
            read(len(chunk))


async def _follow(console: Console, api: Api, batch_id: str) -> dict[str, Any]:
    """Poll until nothing can change soon: every message final, held for later, or the batch stopped."""
    with _progress(console, "{task.fields[states]}") as progress:
        task = progress.add_task("deliver", total=None, states="")
        while True:
            current = await api.get(f"/v1/batches/{batch_id}")
            counts: dict[str, int] = current["counts"]
            done = sum(count for state, count in counts.items() if state in FINAL)
            progress.update(task, total=current["total"], completed=done, states=_line(counts))
            if done + counts.get(State.deferred.name, 0) >= current["total"] > 0:
                return current
            if current["state"] in ("paused", "cancelled"):
                return current
            await asyncio.sleep(POLL_S)


def _line(counts: Mapping[str, int]) -> str:
    return "  ".join(f"{state} {count:,}" for state, count in counts.items() if count)


def _progress(console: Console, text: str) -> Progress:
    return Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn() if "states" in text else TextColumn(""),
        TextColumn(text),
        TimeElapsedColumn(),
        console=console,
    )


def _show_rejections(console: Console, rejected: list[dict[str, Any]], count: int | None) -> None:
    """The first rows that were refused, and how many there were."""
    if not rejected:
        return
    total = count if count is not None else len(rejected)
    console.print(f"{total:,} row(s) rejected")
    table = Table()
    for heading in ("row", "code", "why"):
        table.add_column(heading, justify="right" if heading == "row" else "left")
    for row in rejected[:SHOWN_REJECTIONS]:
        table.add_row(str(row.get("index", "")), row.get("code", ""), row.get("detail", ""))
    if total > SHOWN_REJECTIONS:
        table.add_row("...", "", f"and {total - SHOWN_REJECTIONS:,} more")
    console.print(table)


def _show_result(console: Console, batch: dict[str, Any]) -> None:
    """States across, regions down; all regions in one row where the API doesn't tell them apart."""
    regions: dict[str, dict[str, int]] = batch.get("regions") or {}
    states = [state.name for state in State if batch["counts"].get(state.name)]
    table = Table("region")
    for state in states:
        table.add_column(state, justify="right", style="green" if state == State.delivered.name else None)
    for region, counts in sorted(regions.items()):
        table.add_row(region, *(f"{counts.get(state, 0):,}" for state in states))
    table.add_section()
    table.add_row("all", *(f"{batch['counts'][state]:,}" for state in states))
    console.print(table)
    held = batch["counts"].get(State.deferred.name, 0)
    if held:
        console.print(f"{held:,} are held for later: GET /v1/messages?batch={batch['id']}&state=deferred")
