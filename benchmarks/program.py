"""What a compiled program moves through a GPU's memory, read off its text.

Each operation of the program that is left after fusion is a kernel; it reads its
operands from memory and writes its results. Workspaces of libraries are not counted,
nor what a cache saves or a kernel reads twice.
"""

import math
import re
from typing import NamedTuple

SIZES = {"pred": 1, "bf16": 2, "f16": 2, "token": 0, "opaque": 0}
"""Bytes of an element where the type's name does not say its bits."""

NOTHING = {
    "add-dependency",
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
"""Operations that run nothing."""

PARTIAL = {"slice", "dynamic-slice", "gather"}
"""Operations that read as much of their first operand as they return."""

KINDS = (
    "convolution",
    "product",
    "reduction",
    "transposition",
    "elementwise",
    "other",
)


LARGE = 0.4  # of an image of level 0: those of levels 0 and 1


class Array(NamedTuple):
    """The type of an array, "bf16[3,8,8]{2,1,0}" as the program writes it."""

    dtype: str
    shape: tuple[int, ...]
    layout: str

    @property
    def nbytes(self) -> int:
        """Its bytes in memory."""
        digits = re.search(r"\d+", self.dtype)
        size = SIZES.get(self.dtype)
        if size is None:
            size = int(digits[0]) / 8 if digits else 0
        return math.ceil(math.prod(self.shape) * size)


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    results: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str


class Kernel(NamedTuple):
    """What one operation moves.

    Attributes:
      name: of the operation, which a profile calls `hlo_op`.
      kind: one of `KINDS`.
      read: bytes.
      written: bytes.
      largest: bytes of the largest array that is written.
      launches: how often it runs in one run of the program.
      source: the operation of JAX that it comes from.
    """

    name: str
    kind: str
    read: int
    written: int
    largest: int
    launches: int
    source: str


class Program(NamedTuple):
    """The computations of a program by name, each a list by name, and the first one."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


def parse(text: str) -> Program:
    """Reads a program as `jax.stages.Compiled.as_text` returns it.

    Raises:
      ValueError: the text has no entry.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line[:1].strip() and line.rstrip().endswith("{"):
            found = re.match(r"(ENTRY )?%?([\w.\-]+)", line)
            if found:
                current = computations.setdefault(found[2], {})
                entry = found[2] if found[1] else entry
        elif current is not None and " = " in line:
            instruction = _instruction(line)
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("expected the text of a compiled program, found no ENTRY")
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
    else:
        end = rest.index(" ")
    kind, rest = rest[:end], rest[end:].strip()
    start = rest.index("(")
    end = _closing(rest, start)
    inner = rest[start + 1 : end]
    operands = re.findall(r"%([\w.\-]+)", inner)
    if not operands and not re.search(r"[\[\]{}\"]", inner):
        operands = [word for word in re.split(r"[,\s]+", inner) if word]
    return Instruction(
        name.removeprefix("%"),
        tuple(_arrays(kind)),
        rest[:start],
        tuple(operands),
        rest[end + 1 :],
    )


def _closing(text: str, start: int) -> int:
    """Returns the place of the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"expected a closing bracket in {text[start : start + 80]!r}")


def _arrays(text: str) -> list[Array]:
    found = re.findall(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)[^}]*\})?", text)
    return [
        Array(dtype, tuple(int(n) for n in shape.split(",") if n), layout)
        for dtype, shape, layout in found
    ]


def kernels(program: Program) -> list[Kernel]:
    """Returns what runs, with what it moves, in the program's order."""
    return _kernels(program, program.entry, 1)


def _kernels(program: Program, computation: str, times: int) -> list[Kernel]:
    found: list[Kernel] = []
    body = program.computations[computation]
    for instruction in body.values():
        opcode = instruction.opcode
        if opcode in NOTHING or opcode.endswith(("-done", "-update")):
            continue
        called = _called(instruction)
        if opcode in ("call", "while", "conditional", "async-start"):
            count = re.search(r'known_trip_count":\{"n":"(\d+)', instruction.attributes)
            repeated = times * int(count[1]) if count else times
            parts = [_kernels(program, name, repeated) for name in called]
            if opcode == "conditional":  # one branch runs; the one that moves most
                parts = [max(parts, key=_moved)]
            found += [kernel for part in parts for kernel in part]
            continue
        found.append(_kernel(program, body, instruction, times))
    return found


def _called(instruction: Instruction) -> list[str]:
    pattern = r"(?:calls|to_apply|body|\w+_computation)=%?([\w.\-]+)"
    names = re.findall(pattern, instruction.attributes)
    branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if branches:
        names += re.findall(r"[\w.\-]+", branches[1])
    return names


def _kernel(program, body, instruction, times) -> Kernel:
    fused = None
    if instruction.opcode == "fusion":
        fused = program.computations[_called(instruction)[0]]
    written = [array.nbytes for array in _results(instruction)]
    source = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return Kernel(
        name=instruction.name,
        kind=_kind(instruction, fused, body),
        read=sum(_read(body, instruction, fused)),
        written=sum(written),
        largest=max(written, default=0),
        launches=times,
        source=source[1] if source else "",
    )


def _results(instruction: Instruction) -> list[Array]:
    """Returns what is written; the bytes that a library works in are left out."""
    results = list(instruction.results)
    if instruction.opcode == "custom-call" and len(results) > 1:
        results = [array for array in results if array.dtype not in ("u8", "s8")]
    return results


def _read(body, instruction, fused) -> list[int]:
    """Returns the bytes that are read of each operand."""
    sizes = [
        sum(array.nbytes for array in body[name].results)
        for name in instruction.operands
    ]
    if instruction.opcode in PARTIAL:
        return [min(sizes[0], sum(array.nbytes for array in instruction.results))]
    if instruction.opcode in ("iota", "broadcast") and not sizes:
        return []
    if fused is None:
        return sizes
    for place, parameter in _parameters(fused).items():
        used = _used(fused, parameter)
        if used is not None and place < len(sizes):
            sizes[place] = min(sizes[place], used)
    return sizes


def _parameters(fused) -> dict[int, str]:
    return {
        int(instruction.operands[0]): name
        for name, instruction in fused.items()
        if instruction.opcode == "parameter"
    }


def _used(fused, name) -> int | None:
    """Returns the bytes of a value that are used; None for all of it."""
    total = 0
    for user in fused.values():
        if name not in user.operands:
            continue
        if user.opcode == "bitcast":
            part = _used(fused, user.name)
            if part is None:
                return None
            total += part
        elif user.opcode in PARTIAL and user.operands[0] == name:
            total += sum(array.nbytes for array in user.results)
        else:
            return None
    return total


def _kind(instruction, fused, body) -> str:
    attributes = instruction.attributes
    if "cudnn$conv" in attributes or instruction.opcode == "convolution":
        return "convolution"
    if re.search(r"__cublas|__triton_gemm|__triton_nested_gemm", attributes):
        return "product"
    if instruction.opcode == "dot":
        return "product"
    if fused is not None:
        opcodes = {part.opcode for part in fused.values()}
        if "convolution" in opcodes:
            return "convolution"
        if "dot" in opcodes:
            return "product"
        if any(_is_turned(part, fused) for part in fused.values()):
            return "transposition"
        return "reduction" if "reduce" in opcodes else "elementwise"
    if _is_turned(instruction, body):
        return "transposition"
    if instruction.opcode in ("reduce", "reduce-window"):
        return "reduction"
    is_other = instruction.opcode in ("custom-call", "sort", "scatter", "rng")
    return "other" if is_other else "elementwise"


def _is_turned(instruction, body) -> bool:
    """Says whether an instruction puts the elements of an array into another order."""
    if instruction.opcode not in ("transpose", "copy"):
        return False
    source = body[instruction.operands[0]].results[0]
    result = instruction.results[0]
    axes = tuple(range(len(result.shape)))
    dimensions = re.search(r"dimensions=\{([\d,]+)\}", instruction.attributes)
    if instruction.opcode == "transpose" and dimensions:
        axes = tuple(int(axis) for axis in dimensions[1].split(","))
    return _order(source) != [axes[axis] for axis in _order(result)]


def _order(array: Array) -> list[int]:
    """Returns the axes of more than one element as they are in memory, last fastest."""
    axes = [int(axis) for axis in array.layout.split(",") if axis][::-1]
    axes = axes or list(range(len(array.shape)))
    return [axis for axis in axes if array.shape[axis] > 1]


def needless(found: list[Kernel], image_bytes: float) -> dict[str, int]:
    """Counts kernels that should not be there, of images of level 0 or 1.

    Args:
      found: the kernels of a program.
      image_bytes: of an image of level 0 and all its features; one of level 1 has half.

    Returns:
      "broadcasts": kernels that write an image and read next to nothing, such as the
      image of a bias; "transpositions": kernels that only put one into another order.
    """
    large = [kernel for kernel in found if kernel.largest >= LARGE * image_bytes]
    return {
        "broadcasts": sum(
            kernel.launches for kernel in large if kernel.read < kernel.written / 20
        ),
        "transpositions": sum(
            kernel.launches for kernel in large if kernel.kind == "transposition"
        ),
    }


def summarize(found: list[Kernel], image_bytes: float) -> dict:
    """Sums over the kernels of a program.

    Args:
      found: its kernels.
      image_bytes: as in `needless`.

    Returns:
      "bytes", read and written; "passes", the same in images of level 0; "kernels",
      launches; "largest_bytes", of the largest array that a kernel writes; what
      `needless` counts; and "kinds", launches and bytes of each kind.
    """
    kinds = {}
    for kind in KINDS:
        own = [kernel for kernel in found if kernel.kind == kind]
        if own:
            launches = sum(kernel.launches for kernel in own)
            kinds[kind] = {"kernels": launches, "bytes": _moved(own)}
    return {
        "bytes": _moved(found),
        "passes": _moved(found) / image_bytes,
        "kernels": sum(kernel.launches for kernel in found),
        "largest_bytes": max(kernel.largest for kernel in found),
        **needless(found, image_bytes),
        "kinds": kinds,
    }


def _moved(found: list[Kernel]) -> int:
    return sum((kernel.read + kernel.written) * kernel.launches for kernel in found)
