# SPDX-License-Identifier: Apache-2.0
"""self_improve with a generator whose codebook is on a device."""

from __future__ import annotations

from typing import Any, Callable

from .. import _loop
from .._edit import Edit
from .._loop import Generator, Images, Judge, TuningLoss
from .._metrics import fingerprint
from .._results import RedrawRequest, SelfImproveReport, TuningSet
from .._typing import Codes, DeviceLike, FloatArray, Ids, TokenArray
from ._backend import Backend, download, native_of, write
from ._load import native


class LoopEdit(Edit):
    """The edit of `self_improve` on a device. Its record is on the CPU: undo and apply edit a copy there and write it back."""

    def __init__(self, gpu: Backend, record: Edit, codes: DeviceLike) -> None:
        super().__init__(record._record)
        self._gpu = gpu
        self._on_device = codes

    def undo(self, codes: Codes | DeviceLike | None = None) -> None:
        """As `isic.Edit.undo`, for a codebook on the device."""
        self._through_host(codes, super().undo)

    def apply(self, codes: Codes | DeviceLike | None = None) -> None:
        """As `isic.Edit.apply`, for a codebook on the device."""
        self._through_host(codes, super().apply)

    def _through_host(self, codes: Any, change: Callable[[Codes], None]) -> None:
        on_device = self._on_device if codes is None else codes
        host = download(self._gpu, on_device)
        change(host)
        write(self._gpu, on_device, host)

    def __enter__(self) -> LoopEdit:
        return self

    def __exit__(self, *raised: object) -> None:
        if fingerprint(download(self._gpu, self._on_device)) != self.fingerprint_before:  # equal: the block called undo
            self.undo()


class _HostMirror:
    """A generator with a copy of its device codebook on the CPU. isic edits the copy; it is sent before the generator reads it."""

    def __init__(self, gpu: Backend, generator: Any) -> None:
        self._gpu = gpu
        self._generator = generator
        self.codebook = download(gpu, self.on_device())
        self._mirror = native.CodebookMirror(native_of("self_improve", gpu), self.on_device(), self.codebook)
        if hasattr(generator, "redraw"):
            self.redraw = self._redraw
        if hasattr(generator, "tuning_loss"):
            self.tuning_loss = self._tuning_loss

    def on_device(self) -> DeviceLike:
        book: DeviceLike = _loop.codebook_of(self._generator)
        return book

    def send(self) -> None:
        """Writes the copy to the device if it changed."""
        self._mirror.send(self.on_device())

    def generate(self, prompts: list[str], seed: int) -> Ids:
        ids: Ids = self._generator.generate(prompts, seed)
        return ids

    def decode(self, tokens: TokenArray) -> Any:
        self.send()
        return self._generator.decode(tokens)

    def _redraw(self, request: RedrawRequest) -> Ids:
        self.send()
        ids: Ids = self._generator.redraw(request)
        return ids

    def _tuning_loss(self, tuning_set: TuningSet) -> TuningLoss:
        self.send()
        loss: TuningLoss = self._generator.tuning_loss(tuning_set)

        def on_device(step: int, gradient: FloatArray) -> float:
            self.send()
            return loss(step, gradient)

        return on_device


def self_improve(gpu: Backend, generator: Generator[Images], judge: Judge[Images], **options: Any) -> SelfImproveReport:
    """`isic.self_improve` for a generator whose codebook [K, d] is on the device, and is that of the best completed round at the end.

    Options, judge and report are those of `isic.self_improve`. Decisions, fits and edits run on the CPU, on a copy of the
    codebook. If the copy changed, it is written to the device, in place, before every decode, redraw and tuning step. The
    generator and the judge run on the device. Token ids and gradients are exchanged on the CPU. bfloat16 needs ml_dtypes.

    The report's `change.undo()` restores the codebook on the device. Raises as `isic.self_improve`, CudaError.
    """
    _loop.require_generator("cuda.self_improve", generator)
    mirror = _HostMirror(gpu, generator)
    try:
        report = _loop.self_improve(mirror, judge, **options)
    finally:  # also after Ctrl-C
        mirror.send()
    values = {name: getattr(report, name) for name in report.__dataclass_fields__}
    values["change"] = LoopEdit(gpu, report.change, mirror.on_device())
    return SelfImproveReport(**values)
