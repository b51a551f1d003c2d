"""How the families that train by gradient are trained, scored and stored: one way for all of them.

A family brings its network, its source of inputs, its loss and its way from outputs to grams.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from biomass_models.backbones.adapter import Backbone, parameter_groups
from biomass_models.backbones.adapters import adapt_last
from biomass_models.backbones.devices import MicroBatch, autocast
from biomass_models.backbones.trunk import BackboneTail
from biomass_models.features.inputs import Inputs
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.training.auxiliary import Auxiliary, Observed
from biomass_models.training.config import NetworkConfig, NetworkOptions
from biomass_models.training.fit import (
    FloatArray,
    FoldResult,
    FoldRows,
    IntArray,
    as_tensors,
    generator_for,
    seeded,
)
from biomass_models.training.intervals import IntervalHeads
from biomass_models.training.loop import Schedule, Terms, train_epochs
from biomass_models.training.mixup import BatchRows, Mixup
from biomass_models.training.predicted_metadata import PredictedMetadata
from biomass_models.training.scaling import TargetScaler
from biomass_models.training.sources import Source


def schedule_of(config: NetworkConfig) -> Schedule:
    """How long and how fast a configuration trains."""
    return Schedule(
        epochs=config.epochs,
        batch_size=config.batch_size,
        min_lr=config.min_lr,
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
    )


class Network(nn.Module):
    """A backbone or its trained end (None when frozen: features come from the cache), and new layers: all else.

    A family's network embeds its input; `head` makes five outputs [B, 5] of the embedding [B, D].
    """

    head: nn.Sequential  # heads.mlp_head
    film: PredictedMetadata | None  # between embedding and head, where metadata are predicted
    intervals: IntervalHeads | None  # beside the head's last layer, while it trains

    def __init__(self, backbone: Backbone | BackboneTail | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.film, self.intervals = None, None
        self.recomputes = self.is_adapted = False

    def embed(self, given: Any) -> tuple[Tensor, Any]:
        """The embedding [B, D], and what else `outputs` makes the network's output of."""
        raise NotImplementedError

    def outputs(self, output_BT: Tensor, _beside: Any) -> Any:
        """The network's output; by default the head's."""
        return output_BT

    def forward(self, given: Any) -> Any:
        """The network's output, from which masses are predicted."""
        embedding_BD, beside = self.embed(given)
        if self.film is not None:
            embedding_BD, _ = self.film(embedding_BD)
        return self.outputs(self.head(embedding_BD), beside)

    def observed(self, given: Any) -> Observed:
        """`forward`, with the outputs of the layers that are only there to train."""
        embedding_BD, beside = self.embed(given)
        interval_BK = metadata_BP = None
        if self.film is not None:
            embedding_BD, metadata_BP = self.film(embedding_BD)
        hidden_BH = self.head[:-1](embedding_BD)
        if self.intervals is not None:
            interval_BK = self.intervals(hidden_BH)
        return Observed(self.outputs(self.head[-1](hidden_BH), beside), interval_BK, metadata_BP)

    def adapt(self, config: NetworkOptions) -> None:
        """Put adapters into the trained end of the backbone, where the configuration has them."""
        if config.adapters != "none":
            backbone = self.backbone.backbone if isinstance(self.backbone, BackboneTail) else self.backbone
            assert backbone is not None, "adapters need a backbone that trains"
            adapt_last(backbone, config.trained_blocks, kind=config.adapters, rank=config.adapter_rank)
            self.is_adapted = True

    def learn_beside(self, auxiliary: Auxiliary | None) -> None:
        """Add the layers of what is learned beside the masses."""
        if auxiliary is not None:
            first, last = self.head[0], self.head[-1]
            assert isinstance(first, nn.LayerNorm) and isinstance(last, nn.Linear)
            self.film = auxiliary.film(first.normalized_shape[0])
            self.intervals = auxiliary.interval_heads(last.in_features)

    def restore(self, config: NetworkOptions, tensors: Mapping[str, Tensor]) -> None:
        """The layers and the state of a fit's tensors."""
        self.adapt(config)
        first = self.head[0]
        assert isinstance(first, nn.LayerNorm)
        self.film = PredictedMetadata.stored(first.normalized_shape[0], tensors, "film.")
        self.load_trained_state(tensors)

    def new_layers(self) -> nn.ModuleDict:
        """Everything but the backbone."""
        return nn.ModuleDict({name: child for name, child in self.named_children() if name != "backbone"})

    def recompute(self) -> bool:
        """Keep no activations of the backbone's blocks, compute them again for the gradient: less memory for more time.

        False where there is nothing to save, or it is done already. The end of a backbone on cached prefixes has few
        activations, and running its blocks again would need the prefixes of that time.
        """
        model = self.backbone.model if isinstance(self.backbone, Backbone) else None
        if model is None or self.recomputes or not hasattr(model, "set_grad_checkpointing"):
            return False
        model.set_grad_checkpointing(True)
        self.recomputes = True
        return True

    def trained_tensors(self) -> dict[str, Tensor]:
        """What training changes: the new layers, and the freed part of the backbone. Live, not copies."""
        free = {} if self.backbone is None else self.backbone.trained_state()
        return dict(self.new_layers().state_dict()) | {f"backbone.{name}": part.detach() for name, part in free.items()}

    def trained_state(self) -> dict[str, Tensor]:
        """Copies of the trained tensors on the CPU, as they are stored: all but those that no prediction needs."""
        return {name: tensor.cpu().clone().contiguous() for name, tensor in self._kept_tensors().items()}

    def load_trained_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `trained_state`."""
        for name, tensor in self._kept_tensors().items():
            tensor.copy_(tensors[name])

    def _kept_tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.trained_tensors().items() if not name.startswith("intervals.")}


@dataclass
class Best:
    """The epoch whose predictions and weights are handed back: the last, or the best if the configuration says so."""

    choose: bool  # by the score of the held-out rows: biased, and recorded as such
    epoch: int = 0
    score: float = -np.inf
    pred_NT: FloatArray = field(default_factory=lambda: np.empty((0, 5)))
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def take(
        self, record: Mapping[str, float], pred_NT: FloatArray, state: Callable[[], dict[str, Tensor]], last: bool
    ) -> None:
        """state(): copies of the trained tensors; only called for an epoch that may be handed back."""
        if self.choose and self.epoch and not record["score"] > self.score:
            return
        self.epoch, self.score, self.pred_NT = int(record["epoch"]), record["score"], pred_NT
        self.tensors = state() if last or self.choose else {}

    def result(
        self,
        config: NetworkConfig,
        rows: FoldRows,
        scaler: TargetScaler,
        inputs: Inputs,
        epochs: list[dict[str, float]],
        **info: Any,
    ) -> FoldResult:
        """The fold's result; info: facts beside the usual ones."""
        facts = {
            "train_rows": len(rows.labelled_M),
            "scored_epoch": self.epoch,
            "epoch_chosen_on_validation": self.choose,
            "device": str(inputs.device),
            "weights": inputs.fingerprint(config.backbone),
            **info,
        }
        return FoldResult(rows.valid_M, self.pred_NT, self.tensors | as_tensors(scaler.arrays()), epochs, facts)


def train_network(
    config: NetworkConfig,
    net: Network,
    source: Source,
    scaler: TargetScaler,
    rows: FoldRows,
    inputs: Inputs,
    *,
    losses: Callable[[Any, BatchRows], Terms],
    grams: Callable[[Any], FloatArray],
    notes: tuple[str, ...],
    seed: int,
    should_stop: ShouldStop | None,
    mixup_alpha: float = 0.0,
    auxiliary: Auxiliary | None = None,
) -> FoldResult:
    """Train `net` on the fold's training rows and predict the held-out ones.

    losses(output, rows)      mean of each term of the loss over training rows, which are mixed if the fit has mixup
    grams(output)             masses [B, 5] of the net's output
    mixup_alpha               of the mixup of inputs and masses, 0 for none (mixup.py)
    auxiliary                 what is learned beside the masses, whose layers the net has (Network.learn_beside)
    The last weights (or their moving average) are scored and left in `net`, unless config.select_best_epoch.
    Raises FitError, StopRequested.
    """
    started = time.perf_counter()
    net.to(inputs.device)
    draws, mixup = generator_for(seed, "augmentation"), Mixup(mixup_alpha, seed)
    epochs: list[dict[str, float]] = []
    best = Best(choose=config.select_best_epoch)
    trains_backbone = net.backbone is not None
    compiles = inputs.compile and trains_backbone  # small heads are over before a compiler is done
    own: Callable[[Any], Any] = net if auxiliary is None else net.observed
    forward: Callable[[Any], Any] = torch.compile(own) if compiles else own

    def loss_of(index_B: Tensor) -> Terms:
        input_B = source.augmented(rows.image_N[rows.train_M[index_B.numpy()]], draws)
        mixture = mixup.draw(len(index_B))
        with autocast(inputs.device):
            output = forward(input_B if mixture is None else mixture.of_inputs(input_B))
        batch = BatchRows(index_B.to(inputs.device), mixture)
        if auxiliary is None:
            return losses(output, batch)
        return losses(output.output, batch) | auxiliary.terms(output, batch)

    def after_epoch(record: dict[str, float], last: bool) -> None:
        # a pass over the held-out pictures costs as much as training on them, one over cached features nothing
        if last or not trains_backbone or config.select_best_epoch:
            held_out = rows.held_out_images
            pred_NT = predict_rows(
                net, source, held_out, grams, inputs.device, config.batch_size, should_stop=should_stop
            )
            record["score"] = rows.held_out_score(pred_NT)
            best.take(record, pred_NT, net.trained_state, last)
        epochs.append(record)

    with seeded(seed, "dropout", inputs.device):
        micro = train_epochs(
            net,
            list(net.trained_tensors().values()),
            parameter_groups(
                net.backbone or nn.Identity(),
                net.new_layers(),
                backbone_lr=config.head_lr if net.is_adapted else config.backbone_lr,
                head_lr=config.head_lr,
                weight_decay=config.weight_decay,
            ),
            len(rows.train_M),
            schedule_of(config),
            loss_of,
            after_epoch,
            device=inputs.device,
            seed=seed,
            should_stop=should_stop,
            last_resort=net.recompute,
        )
    net.load_trained_state(best.tensors)
    return best.result(
        config,
        rows,
        scaler,
        inputs,
        epochs,
        micro_batch=micro.size,
        recomputed=net.recomputes,
        **({"compiled": True} if compiles else {}),
        notes=[*notes, *(auxiliary.notes if auxiliary else ())],
        seconds=time.perf_counter() - started,
    )


@torch.inference_mode()
def outputs_of(
    net: Network,
    source: Source,
    row_N: IntArray,
    device: torch.device,
    batch_size: int,
    copy: int = 0,
    *,
    should_stop: ShouldStop | None = None,
) -> list[Any]:
    """The net's outputs for rows of the image set, batch by batch; the net is in prediction mode afterwards.

    Raises StopRequested.
    """
    net.eval()
    outputs: list[Any] = []
    micro = MicroBatch(batch_size)

    def work() -> None:
        outputs.clear()
        for part in micro.slices(len(row_N)):
            check_stop(should_stop, f"{part.start} of {len(row_N)} images are predicted")
            with autocast(device):
                outputs.append(net(source.plain(row_N[part], copy)))

    micro.attempts(work)
    return outputs


def predict_rows(
    net: Network,
    source: Source,
    row_N: IntArray,
    grams: Callable[[Any], FloatArray],
    device: torch.device,
    batch_size: int,
    *,
    flips: int = 1,
    should_stop: ShouldStop | None = None,
) -> FloatArray:
    """Masses [N, 5] in grams, averaged over the first `flips` turns of each picture (augment.TURNS).

    Raises StopRequested.
    """

    def outputs(copy: int) -> list[Any]:
        return outputs_of(net, source, row_N, device, batch_size, copy, should_stop=should_stop)

    pred_FNT = [np.concatenate([grams(output) for output in outputs(copy)]) for copy in range(flips)]
    return np.mean(pred_FNT, axis=0)
