"""A training step as one CUDA graph: the GPU works while Python waits, not the other way round.

At batch 512 the network's step takes an H100 about as long as Python takes to launch two of its
fifty kernels. See "CUDA Graphs" in PyTorch's notes on CUDA semantics.
"""

from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR

from fmnist.classifier import Classifier
from fmnist.data import Batch, Batches

Replay = Callable[[], object]


def can_graph(trainer: pl.Trainer) -> bool:
    """Say whether the steps of `trainer` can be recorded.

    On CUDA, with an optimizer that reads the learning rate and the step from the device.
    """
    return (
        trainer.strategy.root_device.type == "cuda"
        and isinstance(trainer.optimizers[0], Adam | AdamW)
        and trainer.gradient_clip_val is None
        and not torch.is_anomaly_enabled()
    )


def record(step: Callable[[], None]) -> Replay:
    """Capture `step` on the current device, without running it; returns what runs it."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class GraphedSteps:
    """Steps that read all that changes from tensors on the device, so that one graph does for all.

    Once an epoch: the order, the augmentation's draws and the learning rates. Every step: the
    number of the batch, which a step itself moves on. The first `NUM_EAGER` steps run as they are:
    they train as any other, and make what a capture must find made (CUDA's libraries, gradients,
    the optimizer's state).
    """

    NUM_EAGER = 3

    def __init__(
        self,
        trainer: pl.Trainer,
        module: Classifier,
        batches: Batches,
        say: Callable[[str], None],
        record: Callable[[Callable[[], None]], Replay] = record,
    ) -> None:
        self.module, self.batches, self.say, self.record = module, batches, say, record
        self.context = trainer.precision_plugin.forward_context
        self.optimizer = trainer.optimizers[0]
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        self.scheduler = scheduler
        device = batches.images.device
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
            group["capturable"] = device.type == "cuda"
        self.order = batches.order.clone()
        self.draws = {name: values.clone() for name, values in batches.draws.items()}
        self.rates = torch.zeros(len(self.optimizer.param_groups), len(batches), device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)  # batch of the epoch
        self.slot = torch.zeros_like(self.position)  # batch of the chunk
        self.within = torch.arange(batches.batch_size, device=device)
        self.seen: list[Tensor] = []  # losses (n,), logits (n, B, K), labels (n, B) of a chunk
        self.num_done = 0
        self.replay: Replay | None = None

    def run(self, begin: int, end: int) -> tuple[Tensor, Batch]:
        if begin == 0:
            self._load_epoch()
        self.position.fill_(begin)
        self.slot.zero_()
        for _ in range(begin, end):
            if self.replay is None and self.num_done >= self.NUM_EAGER:
                self.replay = self._recorded()
            if self.replay is None:
                self._warm_up()
            else:
                self.replay()
            self.num_done += 1
        for loss, logits, labels in zip(*(s[: end - begin] for s in self.seen), strict=True):
            self.module.note_step(loss, logits, labels)
        self.scheduler.last_epoch += end - begin - 1  # all but the last at once
        self.scheduler._step_count += end - begin - 1
        self.scheduler.step()
        return self.seen[0][end - begin - 1].clone(), self.batches.batch(end - 1)

    def _recorded(self) -> Replay:
        self.optimizer.zero_grad()
        try:
            return self.record(self._step)
        except RuntimeError as error:  # a user's network that reads from the device, say by item()
            reason = str(error).strip().splitlines()[0]
            self.say(f"Note: training without a CUDA graph, which is slower: {reason}")
            return self._step

    def _load_epoch(self) -> None:
        self.order.copy_(self.batches.order)
        for name, values in self.batches.draws.items():
            self.draws[name].copy_(values)
        steps = range(self.scheduler.last_epoch, self.scheduler.last_epoch + len(self.batches))
        pairs = zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        rates = [[float(base) * factor(step) for step in steps] for base, factor in pairs]
        self.rates.copy_(torch.tensor(rates))

    def _warm_up(self) -> None:
        """Take a step on a stream of its own, as a capture does."""
        if self.position.device.type != "cuda":
            self._step()
            return
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step()
        torch.cuda.current_stream().wait_stream(stream)

    def _step(self) -> None:
        chosen = self.order.index_select(0, self.position * self.batches.batch_size + self.within)
        images, labels = self.batches.gather(chosen, self.draws)
        with self.context():
            loss, logits = self.module.loss_of(images, labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group, rates in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"].copy_(rates.index_select(0, self.position).squeeze(0))
        self.optimizer.step()
        self._note(loss.detach(), logits.detach(), labels)
        self.position += 1
        self.slot += 1

    def _note(self, *values: Tensor) -> None:
        """Keep what the module counts at the end of the chunk."""
        if not self.seen:
            size = self.module.trainer.log_every_n_steps  # type: ignore[attr-defined]
            size = min(size, len(self.batches))
            self.seen = [value.new_zeros(size, *value.shape) for value in values]
        for kept, value in zip(self.seen, values, strict=True):
            kept.index_copy_(0, self.slot, value[None])
