"""What a compiled program does on one device, read from its text: arithmetic, traffic, collectives.

A kernel is an instruction that runs something: of the entry, and of the bodies of loops, as often
as these are known to run (once where that depends on the data). Its traffic is what it reads and
writes of the device's memory; its products are counted wherever its fusions hold them.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# Instructions that run nothing; the second half of an asynchronous one is counted with the first.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}
_FREE |= {"partition-id", "replica-id", "optimization-barrier", "domain"}
_CALLS = {
    "while",
    "call",
    "conditional",
    "async-start",
}  # whose kernels are those of what they call
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_ITEMSIZE = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8}  # else 4
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\](?:\{([\d,]*):?([^}]*)\})?")
_HEAD = re.compile(r"(ENTRY )?%?([\w.-]+) (?:\(.*)?\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z-]*)\((.*)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Array(NamedTuple):
    """An array of a program.

    Attributes:
      dtype: as XLA writes it.
      shape: its lengths.
      size: bytes it takes, with the padding of a TPU's tiles.
      in_memory: whether it lies in the device's memory, not in a store on the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    size: int
    in_memory: bool

    @property
    def value_bytes(self) -> int:
        """Bytes of its values, without padding."""
        return math.prod(self.shape) * _ITEMSIZE.get(self.dtype, 4)


class Kernel(NamedTuple):
    """What one kernel does.

    Attributes:
      traffic: bytes it reads and writes.
      flops: name of a precision -> floating point operations of products.
      collective: its kind, '' for none.
      carried: bytes of the values that a collective is about, of one device.
      widened: bytes of the largest float32 array it writes.
    """

    traffic: int
    flops: dict[str, int]
    collective: str = ""
    carried: int = 0
    widened: int = 0


class _Instruction(NamedTuple):
    name: str
    result: list[Array]
    operation: str
    operands: list[str]
    rest: str


class Program:
    """A compiled program.

    Attributes:
      kernels: those that run, in the order of the text.
    """

    def __init__(self, text: str, *, float32: str = "f32"):
        """Reads a program.

        Args:
          text: as XLA prints it, before or after it is optimised.
          float32: name of the precision that products of float32 have on the device where none is
            asked for.
        """
        self._float32 = float32
        self._computations, entry = _parse(text)
        self._flops: dict[str, collections.Counter] = {}
        self.kernels = list(self._run(entry))

    @property
    def traffic(self) -> int:
        """Bytes that all kernels read and write."""
        return sum(kernel.traffic for kernel in self.kernels)

    @property
    def widened(self) -> int:
        """Bytes of the largest float32 array that a kernel writes."""
        return max((kernel.widened for kernel in self.kernels), default=0)

    @property
    def flops(self) -> collections.Counter:
        """Name of a precision -> floating point operations of products."""
        return sum((collections.Counter(kernel.flops) for kernel in self.kernels), _nothing())

    @property
    def collectives(self) -> dict[str, list[int]]:
        """Kind of collective -> bytes that each is about, of one device."""
        found: dict[str, list[int]] = {}
        for kernel in self.kernels:
            if kernel.collective:
                found.setdefault(kernel.collective, []).append(kernel.carried)
        return found

    def _run(self, computation: str) -> Iterator[Kernel]:
        instructions = self._computations[computation]
        arrays = {each.name: each.result for each in instructions}
        for each in instructions:
            if each.operation in _FREE or each.operation.endswith(("-done", "-update")):
                continue
            if each.operation in _CALLS:
                inside = [kernel for name in _called(each.rest) for kernel in self._run(name)]
                trips = _TRIPS.search(each.rest)
                yield from inside * (int(trips[1]) if trips else 1)
                continue
            yield self._kernel(each, arrays)
            for name in _called(each.rest):  # a collective inside a fusion
                yield from (kernel for kernel in self._run(name) if kernel.collective)

    def _kernel(self, each: _Instruction, arrays: dict[str, list[Array]]) -> Kernel:
        read = [array for name in each.operands for array in arrays.get(name, [])]
        kind = each.operation.removesuffix("-start")
        collective = kind if kind in COLLECTIVES else ""
        # The result of a start holds its operands, too, but where it is one of all-reduce.
        beside = each.operation.endswith("-start") and kind != "all-reduce"
        written = each.result[len(read) :] if beside and collective else each.result
        traffic = _traffic(each.operation, read, written)
        values = (sum(array.value_bytes for array in side) for side in (read, written))
        carried = max(values) if collective else 0
        widened = max((array.size for array in written if array.dtype == "f32"), default=0)
        return Kernel(traffic, self._products(each, arrays), collective, carried, widened)

    def _products(self, each: _Instruction, arrays: dict[str, list[Array]]) -> collections.Counter:
        """Floating point operations of an instruction and of what it calls, by precision."""
        total = _nothing()
        if macs := _macs(each, arrays):
            operand = arrays[each.operands[0]][0]
            precision, times = _precision(operand.dtype, each.rest, self._float32)
            total[precision] += 2 * macs * times
        for name in _called(each.rest):
            if name not in self._flops:
                inside = self._computations[name]
                types = {one.name: one.result for one in inside}
                self._flops[name] = sum((self._products(one, types) for one in inside), _nothing())
            total += self._flops[name]
        return total


def _nothing() -> collections.Counter:
    return collections.Counter()


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Name of a computation -> its instructions; and the name of the entry."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", []
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            name, types, operation, rest = match.groups()
            operands = re.findall(r"%?([A-Za-z_][\w.-]*)", rest.split(")")[0])
            result = [_array(*array) for array in _ARRAY.findall(types)]
            current.append(_Instruction(name, result, operation, operands, rest))
        elif match := _HEAD.match(line):
            current = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
    return computations, entry


def _array(dtype: str, shape: str, order: str, layout: str) -> Array:
    lengths = tuple(int(length) for length in shape.split(",") if length)
    padded = list(lengths)
    # A TPU's layout ends in the tiles that the fastest axes are padded to, and where it lies.
    if lengths and (tile := re.match(r"T\(([\d,]+)\)", layout)):
        tiles = [int(length) for length in tile[1].split(",")]
        fastest = [int(axis) for axis in order.split(",")]
        for axis, length in zip(fastest, reversed(tiles), strict=False):
            padded[axis] = -(-padded[axis] // length) * length
    size = math.prod(padded) * _ITEMSIZE.get(dtype, 4)
    return Array(dtype, lengths, size, "S(" not in layout)


def _called(rest: str) -> list[str]:
    names = _CALLED.findall(rest)
    for branches in _BRANCHES.findall(rest):
        names += [name.strip().lstrip("%") for name in branches.split(",")]
    return names


def _traffic(operation: str, read: list[Array], written: list[Array]) -> int:
    """Bytes of the device's memory that an instruction moves."""
    if operation == "copy-start":  # the result holds both ends
        read = []
    elif operation == "slice-start":  # it holds operand, slice and a word; only the slice is read
        number = len(read)
        part = written[number]._replace(in_memory=read[0].in_memory)
        read, written = [part], written[number:]
    return sum(array.size for array in (*read, *written) if array.in_memory)


def _precision(dtype: str, rest: str, float32: str) -> tuple[str, int]:
    """Name of a product's precision, and how many products of it make one."""
    if dtype != "f32":
        return dtype, 1
    if algorithm := re.search(r"algorithm=dot_(tf32|bf16)_\w+?_f32(?:_x(\d))?", rest):
        return algorithm[1], int(algorithm[2] or 1)
    highest = re.search(r"operand_precision=\{highest", rest)
    return ("f32" if highest else float32), 1


def _macs(each: _Instruction, arrays: dict[str, list[Array]]) -> int:
    """Multiply-adds of a product; 0 of what is none."""
    target = re.search(r'custom_call_target="__(cudnn\$conv\w+|cublas\$\w+)"', each.rest)
    if each.operation not in ("dot", "convolution") and not target:
        return 0
    left, right = (arrays[name][0] for name in each.operands[:2])
    result = each.result[0]
    if each.operation == "dot" or (target and target[1].startswith("cublas")):
        axes = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]*)', each.rest)[1]
        contracted = [left.shape[int(axis)] for axis in re.findall(r"\d+", axes)]
        return math.prod(result.shape) * math.prod(contracted)
    # A backward one of cuDNN is described as the forward one that it is the gradient of.
    if target and target[1].endswith("BackwardInput"):
        left, result = result, left
    elif target and target[1].endswith("BackwardFilter"):
        right, result = result, right
    return _convolution_macs(each.rest, left, right, result)


def _convolution_macs(rest: str, images: Array, kernel: Array, result: Array) -> int:
    """Multiply-adds of a convolution without those with padding or between dilated values."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    # A TPU's products are convolutions that have no window.
    window = re.search(r"window=\{([^}]*)\}", rest)
    window = dict(re.findall(r"(\w+)=([\dx_-]+)", window[1])) if window else {}
    place = [dict(zip(label, range(len(label)), strict=True)) for label in labels.groups()]
    macs = images.shape[place[0]["b"]] * math.prod(kernel.shape[place[1][c]] for c in "io")
    number = len(labels[1]) - 2
    fields = {"stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    each = {
        name: window.get(name, "x".join([default] * number)).split("x")
        for name, default in fields.items()
    }
    for axis in range(number):
        lengths = [
            array.shape[where[str(axis)]]
            for array, where in zip((images, kernel, result), place, strict=True)
        ]
        stride, before, spread, dilated = (int(each[name][axis].split("_")[0]) for name in fields)
        macs *= _taps(*lengths, stride, before, spread, dilated)
    return macs


def _taps(
    length: int, size: int, results: int, stride: int, before: int, spread: int, dilated: int
) -> int:
    """Pairs of a result and a tap along an axis that meet a value."""
    number = 0
    for tap in range(size):
        first = tap * dilated - before
        places = range(first, first + results * stride, stride)
        number += sum(0 <= at <= (length - 1) * spread and at % spread == 0 for at in places)
    return number
