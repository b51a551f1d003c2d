"""Photographs of a request, into a folder of its own under names of ours: a name that was sent is only ever shown."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from biomass_models.counted import counted
from biomass_models.data.images import ImageError, open_photograph
from biomass_models.data.importing import PHOTOGRAPH_SUFFIXES
from biomass_models.visible import visible
from orchestration.serving.asked import FIELDS, MEGABYTE, Limits, RequestError, client_gone
from orchestration.serving.folder import RequestFolder

PHOTOGRAPHS = "photographs"  # field of the form
MOST_FIELDS, FIELD_BYTES = 16, 4096
LONGEST_NAME = 100
LONGEST_LENGTH = 18  # digits
UNKNOWN_CHARSET = "a form is UTF-8, got another charset that cannot be read; send it again"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One photograph."""

    name: str  # as it was sent, for people
    path: Path
    bytes: int

    def refused(self, limits: Limits) -> str | None:
        """Why it is not looked at: too large a file, or so many pixels that decoding them would take all memory."""
        if self.bytes > limits.photograph_bytes:
            got = f"{self.bytes / MEGABYTE:.1f} MB"
            return f"a photograph has at most {limits.photograph_mb:g} MB; got {got}; send it smaller"
        try:
            with open_photograph(self.path) as image:
                width, height = image.size
        except ImageError as error:
            return self.in_words(error)
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and width * height > most:
            got = f"{width} x {height} px"
            return f"a photograph has at most {most / 1e6:.0f} million pixels; got {got}; send it smaller"
        return None

    def in_words(self, error: object) -> str:
        """An error on one line, with the name that was sent in the place of ours."""
        return " ".join(str(error).replace(str(self.path), self.name).split())


async def read_request(
    request: Request, folder: RequestFolder, limits: Limits
) -> tuple[list[Upload], dict[str, list[str]]]:
    """Photographs and fields of a form. Raises RequestError: no form, too many, too large, too slow."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError(415, f"photographs are sent as multipart/form-data, in the field {PHOTOGRAPHS}")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > LONGEST_LENGTH or int(length) > limits.request_bytes):
        raise _too_large(limits)
    parser = MultiPartParser(
        request.headers,
        _counted(request, limits),
        max_files=limits.photographs + 2,  # a browser sends each empty field of files as one without a name
        max_fields=MOST_FIELDS,
        max_part_size=FIELD_BYTES,
    )
    try:
        async with asyncio.timeout(limits.upload_seconds):
            form = await parser.parse()
    except TimeoutError:
        raise RequestError(408, f"photographs arrive within {limits.upload_seconds:.0f} s; send fewer") from None
    except ClientDisconnect:
        raise client_gone() from None
    except MultiPartException as error:
        raise _malformed(error.message, limits) from None
    except UnicodeError:
        raise RequestError(400, UNKNOWN_CHARSET) from None
    fields: dict[str, list[str]] = {}
    uploads: list[Upload] = []
    try:
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields.setdefault(name, []).append(value)
            elif name != PHOTOGRAPHS:
                raise RequestError(400, f"photographs are in the field {PHOTOGRAPHS}, got {name!r:.60}")
            elif value.filename:
                if len(uploads) == limits.photographs:
                    raise _too_many(limits)
                uploads.append(await folder.in_thread(_saved, value, folder.path, len(uploads) + 1))
    finally:
        await form.close()
    if not uploads:
        raise RequestError(400, f"at least one photograph is needed, in the field {PHOTOGRAPHS}; got none")
    return uploads, fields


async def _counted(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body, as far as it may go: its length need not be what its header says, or may not be there."""
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.request_bytes:
            raise _too_large(limits)
        yield chunk


def _saved(sent: UploadFile, folder: Path, number: int) -> Upload:
    name = shown_name(sent.filename or "")
    suffix = Path(name).suffix.lower()
    path = folder / f"{number:04d}{suffix if suffix in PHOTOGRAPH_SUFFIXES else ''}"
    with path.open("xb") as stream:
        shutil.copyfileobj(sent.file, stream)
    return Upload(name=name, path=path, bytes=path.stat().st_size)


def shown_name(sent: str) -> str:
    """The last part of a name that was sent, cut; nothing in it can steer a terminal or reorder a line."""
    name = visible(re.split(r"[/\\]", sent)[-1].replace("\n", " ").replace("\t", " ")).strip()
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 21]}…{name[-20:]}"
    return name or "photograph"


def _too_large(limits: Limits) -> RequestError:
    most = limits.request_bytes / MEGABYTE
    return RequestError(413, f"a request has at most {most:.0f} MB; send fewer or smaller photographs")


def _too_many(limits: Limits) -> RequestError:
    most = counted(limits.photographs, "photograph")
    return RequestError(413, f"a request has at most {most}; send the rest after them")


def _malformed(said: str, limits: Limits) -> RequestError:
    if said.startswith("Too many files"):
        return _too_many(limits)
    if said.startswith(("Too many fields", "Part exceeded")):
        return RequestError(413, f"a form has the fields {', '.join(FIELDS)} and photographs, got more or longer ones")
    return RequestError(400, f"a form must be whole, got: {said.rstrip('.')}; send it again")
