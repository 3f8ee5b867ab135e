"""A training step as one CUDA graph: the GPU works while Python waits, not the other way round.

A step of a small network is dozens of kernels, each shorter than its launch. See "CUDA Graphs" in
PyTorch's notes on CUDA semantics.
"""

import gc
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR

from fmnist.classifier import Classifier
from fmnist.data import Batch, Batches
from fmnist.muon import Muon

Replay = Callable[[], object]


def why_not(trainer: pl.Trainer, module: Classifier) -> str | None:
    """Name what cannot be recorded, or return None.

    A graph repeats what Python decided while it was captured, so of networks only those count that
    are known to decide nothing; an optimizer must read its rate and step from the device.
    """
    reasons = {
        "this optimizer": type(trainer.optimizers[0]) not in (Adam, AdamW, Muon),
        "trainer.gradient_clip_val": trainer.gradient_clip_val is not None,
        "trainer.detect_anomaly": torch.is_anomaly_enabled(),
        "a network of your own": any(
            not type(layer).__module__.startswith(("torch.nn.", "torchvision.", "fmnist."))
            for layer in module.net.modules()
        ),
    }
    return next((what for what, is_so in reasons.items() if is_so), None)


def record(step: Callable[[], None]) -> Replay:
    """Capture `step` on the current device, without running it; returns what runs it.

    Leaves the process as it was when that fails: torch 2.14 does not put back the stream, nor the
    state of the generator. The garbage collector rests, as it might free an older graph meanwhile.
    """
    torch.cuda.synchronize()
    graph, was_enabled = torch.cuda.CUDAGraph(), gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            step()
    except RuntimeError:
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())
        raise
    finally:
        if was_enabled:
            gc.enable()
    return graph.replay


class GraphedSteps:
    """Steps that read all that changes from tensors on the device, so that one graph does for all.

    Once an epoch: the order, the augmentation's draws and the learning rates. Every step: the
    number of the batch, which a step itself moves on. The first `NUM_EAGER` steps run as they are:
    they train as any other, and make what a capture must find made (CUDA's libraries, gradients,
    the optimizer's state). So do those after weights were frozen or freed between two epochs.
    """

    NUM_EAGER = 3
    MAX_STEPS = 200  # at a time, so that the progress bar moves and Ctrl-C is heard

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
            if "capturable" in group:
                group["capturable"] = device.type == "cuda"
        for state in self.optimizer.state.values():  # of a checkpoint
            if "step" in state:
                state["step"] = state["step"].to(device, torch.float32)
        self.order = batches.order.clone()
        self.draws = {name: values.clone() for name, values in batches.draws.items()}
        self.rates = torch.zeros(len(self.optimizer.param_groups), len(batches), device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)  # batch of the epoch
        self.slot = torch.zeros_like(self.position)  # batch of the chunk
        self.within = torch.arange(batches.batch_size, device=device)
        self.seen: list[Tensor] = []  # losses (n,), logits (n, B, K), targets (n, ...) of a chunk
        self.num_done = 0
        self.replay: Replay | None = None
        self.learning: list[bool] = []  # which weights do

    def run(self, begin: int, end: int) -> tuple[int, Tensor, Batch]:
        end = min(end, begin + self.MAX_STEPS)
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
        seen = [values[: end - begin].clone() for values in self.seen]
        for loss, logits, targets in zip(*seen, strict=True):
            self.module.note_step(loss, logits, targets)
        self.scheduler.last_epoch += end - begin - 1  # all but the last at once
        self.scheduler._step_count += end - begin - 1
        self.scheduler.step()
        return end, seen[0][-1], self.batches.batch(end - 1)

    def _recorded(self) -> Replay:
        self.optimizer.zero_grad()
        try:
            return self.record(self._step)
        except RuntimeError as error:  # a layer that reads from the device, say by item()
            cause: BaseException = error
            while cause.__context__ is not None:
                cause = cause.__context__
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            self.say(f"Note: training without a CUDA graph, which is slower: {reason}")
            return self._step

    def _load_epoch(self) -> None:
        learning = [weight.requires_grad for weight in self.module.parameters()]
        if learning != self.learning:
            self.learning, self.replay, self.num_done = learning, None, 0
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
        images, targets = self.batches.gather(chosen, self.draws)
        with self.context():
            loss, logits = self.module.loss_of(images, targets)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group, rates in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"].copy_(rates.index_select(0, self.position).squeeze(0))
        self.optimizer.step()
        self._note(loss.detach(), logits.detach(), targets)
        self.position += 1
        self.slot += 1

    def _note(self, *values: Tensor) -> None:
        """Keep what the module counts at the end of the chunk."""
        if not self.seen:
            self.seen = [value.new_zeros(self.MAX_STEPS, *value.shape) for value in values]
        for kept, value in zip(self.seen, values, strict=True):
            kept.index_copy_(0, self.slot, value[None])
