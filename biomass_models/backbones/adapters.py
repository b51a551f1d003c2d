"""Low-rank adapters in the last blocks of a backbone, by peft: LoRA (arXiv 2106.09685) and DoRA (arXiv 2402.09353).

The weights of the blocks stay frozen, and the final norm too: only the adapters train, and only they are stored.
"""

from __future__ import annotations

from torch import nn

from biomass_models.backbones.adapter import Backbone, BackboneError


def adapt_last(backbone: Backbone, count: int, *, kind: str, rank: int) -> None:
    """Put adapters beside every linear layer of the last `count` blocks, of which nothing else trains from then on.

    They begin as nothing: outputs are those of the backbone alone. Their first weights come from torch's global
    generator. kind: lora or dora. Raises BackboneError without peft, or where the blocks have no linear layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise BackboneError(
            f"adapters={kind} needs the package peft, got {error}; install it (pip install pasture-biomass[adapters]) "
            "or set adapters=none"
        ) from error
    inside = {id(module) for block in backbone.blocks()[-count:] for module in block.modules()}
    linear = [
        name
        for name, module in backbone.model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear)
    ]
    if not linear:
        raise BackboneError(
            f"adapters are put beside linear layers, got none in the last blocks of {backbone.name}; set adapters=none"
        )
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=linear, use_dora=kind == "dora")
    inject_adapter_in_model(config, backbone.model)
    backbone.free(
        [part for name, part in backbone.model.named_modules() if name.rpartition(".")[2].startswith("lora_")]
    )
