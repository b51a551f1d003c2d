"""Names under which a backbone's weights are published: timm's, the hub's, and those of the authors.

Names are patterns of Path.glob, relative to a weights folder.
"""

from __future__ import annotations

from collections.abc import Iterator

from biomass_models.backbones.noted import noted

SUFFIXES = (".safetensors", ".pth", ".pt")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# timm's architecture -> Meta's; the suffix _qkvb is timm's variant of the same weights
DINOV3 = {
    "vit_small_patch16_dinov3": "vits16",
    "vit_small_plus_patch16_dinov3": "vits16plus",
    "vit_base_patch16_dinov3": "vitb16",
    "vit_large_patch16_dinov3": "vitl16",
    "vit_huge_plus_patch16_dinov3": "vith16plus",
    "vit_7b_patch16_dinov3": "vit7b16",
    "convnext_tiny": "convnext_tiny",
    "convnext_small": "convnext_small",
    "convnext_base": "convnext_base",
    "convnext_large": "convnext_large",
}


def published_names(name: str) -> list[str]:
    """Files of a backbone (canonical timm name) in a weights folder, best first: plain ones, then the authors'."""
    architecture = name.split(".")[0]
    names = [f"{stem}{suffix}" for stem in dict.fromkeys((name, architecture)) for suffix in SUFFIXES]
    return list(dict.fromkeys([*names, *_of_authors(name)]))


def hub_names(name: str) -> list[str]:
    """Paths of a backbone's files as hub clients leave them: a folder of the repository, or a cache of the hub's."""
    repository = place_of(name, "hf_hub_id") or f"timm/{name}"
    folders = (repository.rsplit("/", 1)[-1], repository, repository.replace("/", "--"), repository.replace("/", "_"))
    cached = f"models--{repository.replace('/', '--')}/snapshots/*"
    return [f"{folder}/{file}" for folder in (*dict.fromkeys((name, *folders)), cached) for file in HUB_FILES]


def place_of(name: str, what: str) -> str:
    """What timm says of where a backbone (canonical name) is published: hf_hub_id, hf_hub_filename, url; else ""."""

    def found() -> str:
        import timm

        return str(getattr(timm.get_pretrained_cfg(name), what, None) or "")

    return noted(what, name, found)


def _of_authors(name: str) -> Iterator[str]:
    if url := place_of(name, "url"):
        yield url.rsplit("/", 1)[-1]
    architecture, _, tag = name.partition(".")
    meta = DINOV3.get(architecture.removesuffix("_qkvb"))
    dataset = tag.removeprefix("dinov3_")
    if meta and dataset in ("lvd1689m", "sat493m") and ("dinov3" in architecture or tag.startswith("dinov3_")):
        yield f"dinov3_{meta}_pretrain_{dataset}.pth"
        yield f"dinov3_{meta}_pretrain_{dataset}-*.pth"  # Meta adds the first digits of the file's hash
