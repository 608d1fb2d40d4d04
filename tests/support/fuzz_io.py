"""Damages larcv3 files and reads them: the right data, or LarcvFileError, or a bug.

They are listed, too (`ctjax show --list`), which never ends in any other error.

    python -m tests.support.fuzz_io --files 5000 --seed 1

Each file is made from an undamaged one and a number, so that every finding can be
made again with `--first NUMBER --files 1`. Reading happens in processes of their own,
watched for crashes and hangs. A checksum of each event tells wrong images.
"""

import argparse
import multiprocessing
import os
import pathlib
import resource
import shutil
import sys
import tempfile
import zlib

import h5py
import numpy as np

from ctjax.commands import list_files, simulate
from ctjax.data import native
from ctjax.data.larcv import listing
from ctjax.data.larcv.file import LarcvFileError
from ctjax.data.sources import open_source
from tests.support import larcv_fixtures

LIBRARY = native.routines
TIME_LIMIT_S = 60
MEMORY_LIMIT = 6 * 2**30
TABLES = ("extents", "voxel_extents", "image_meta", "voxels")
SHARED_FILES = ("larcv_written_v1.h5", "larcv_written_v2.h5", "cosmic_tagging_light.h5")


def write_undamaged(folder):
    """Files to damage: small ones of several layouts, simulated and real ones."""
    gzip = {"compression": "gzip", "compression_opts": 1}
    layouts = {
        "gzip": {},
        "shuffle": {"filters": {**gzip, "shuffle": True}},
        "checked": {"filters": {**gzip, "fletcher32": True}},
        "latest": {"libver": "latest"},
        "large_chunks": {"voxel_chunk": 1000, "index_chunk": 100},
    }
    paths = []
    for name, options in layouts.items():
        paths.append(os.path.join(folder, f"{name}.h5"))
        larcv_fixtures.write_larcv(paths[-1], larcv_fixtures.make_events(6), **options)
    paths.append(os.path.join(folder, "simulated.h5"))
    options = "--events 3 --shape 160,256 --seed 1 --workers 1"
    simulate.main([*options.split(), "--output", paths[-1]])
    if larcv_fixtures.SHARED:
        paths += [larcv_fixtures.shared("data", name) for name in SHARED_FILES]
    return paths


def checksums(path, **options):
    """Checksum of id, image and label of each event; None where one is refused."""
    with open_source(file=path, require_label=True, **options) as source:
        found = []
        for entry in range(source.num_events):
            image = np.zeros((3, *source.image_shape), np.float32)
            label = np.zeros(image.shape, np.uint8)
            try:
                source.read(entry, image, label)
            except LarcvFileError:
                found.append(None)
                continue
            content = source.event_id(entry).tobytes() + image.tobytes()
            found.append(zlib.crc32(content + label.tobytes()))
    return found


def flip_bytes(path, random):
    """Changes single bytes anywhere."""
    with open(path, "r+b") as file:
        for _ in range(random.integers(1, 9)):
            file.seek(random.integers(os.path.getsize(path)))
            file.write(random.bytes(1))


def flip_metadata_bytes(path, random):
    """Changes bytes near the names of tables and members, where HDF5 describes them."""
    marks = [b"first", b"value", b"SNOD", b"TREE", b"HEAP", b"projection_id", b"voxels"]
    flip_near(path, random, marks[random.integers(len(marks))])


def flip_near(path, random, mark):
    """Changes bytes near one of the places of a mark."""
    content = pathlib.Path(path).read_bytes()
    places = [i for i in range(len(content)) if content.startswith(mark, i)] or [0]
    with open(path, "r+b") as file:
        for _ in range(random.integers(1, 4)):
            place = places[random.integers(len(places))] + random.integers(-64, 128)
            file.seek(min(max(0, place), len(content) - 1))
            file.write(random.bytes(1))


def overwrite_block(path, random):
    """Zeros or noise over a stretch of the file."""
    size = os.path.getsize(path)
    length = int(random.integers(1, max(2, size // 10)))
    with open(path, "r+b") as file:
        file.seek(random.integers(size - length))
        file.write(random.bytes(length) if random.integers(2) else bytes(length))


def truncate(path, random):
    """Cuts the file at any length."""
    os.truncate(path, int(random.integers(os.path.getsize(path))))


def shift_bytes(path, random):
    """Removes or doubles a stretch, so that all behind it moves."""
    content = pathlib.Path(path).read_bytes()
    start, length = int(random.integers(len(content))), int(random.integers(1, 5000))
    tail = start + length if random.integers(2) else max(0, start - length)
    with open(path, "wb") as file:
        file.write(content[:start] + content[tail:])


def pick_table(file, random, *tables):
    """One of the tables of one of the products."""
    group = (larcv_fixtures.IMAGE_GROUP, larcv_fixtures.LABEL_GROUP)[random.integers(2)]
    return file[group][tables[random.integers(len(tables))]]


def swap_chunks(path, random):
    """Exchanges the content of two chunks of a table."""
    with h5py.File(path, "r+") as file:
        table = pick_table(file, random, "voxels", "voxels", "voxel_extents")
        chunks = -(-len(table) // table.chunks[0])
        one, two = (int(c) * table.chunks[0] for c in random.integers(chunks, size=2))
        stored = [table.id.read_direct_chunk((row,)) for row in (one, two)]
        table.id.write_direct_chunk((one,), stored[1][1], stored[1][0])
        table.id.write_direct_chunk((two,), stored[0][1], stored[0][0])


def change_chunk(path, random):
    """Gives one chunk another size, or valid gzip of other bytes."""
    with h5py.File(path, "r+") as file:
        table = pick_table(file, random, *TABLES)
        row = int(random.integers(-(-len(table) // table.chunks[0]))) * table.chunks[0]
        mask, stored = table.id.read_direct_chunk((row,))
        cut = stored[: random.integers(1, len(stored))]
        size = int(random.integers(1, 40_000))
        other = [
            cut,
            bytes(1),
            zlib.compress(bytes(size)),
            zlib.compress(random.bytes(size)),
        ]
        mask = mask if random.integers(4) else int(random.integers(4))
        table.id.write_direct_chunk((row,), other[random.integers(4)], mask)


def change_index(path, random):
    """Sets one number of an index table to another, near or far."""
    with h5py.File(path, "r+") as file:
        table = pick_table(file, random, "extents", "voxel_extents", "image_meta")
        rows = table[:]
        name = ["first", "N", "ID", "valid", "projection_id", "number_of_voxels"]
        name = [n for n in name if n in rows.dtype.names]
        name = name[random.integers(len(name))]
        row = random.integers(len(rows))
        value = rows[name].reshape(len(rows), -1).astype(object)[row, 0]
        values = [0, 1, value - 1, value + 1, value * 2, 2**31, 2**32 - 1, 2**64 - 1]
        limit = 256 ** rows.dtype[name].base.itemsize
        rows[name][row] = values[random.integers(len(values))] % limit
        table[:] = rows


def change_type(path, random):
    """Rewrites the voxels with another record type or another layout."""
    with h5py.File(path, "r+") as file:
        table = pick_table(file, random, "voxels")
        rows = table[:]
        types = [
            np.dtype([("id", "u4"), ("value", "f8")]),
            np.dtype([("value", "f4"), ("id", "i8")], align=True),
            np.dtype([("id", "f8"), ("value", "f4")]),
            np.dtype([("id", "u8"), ("value", "i4")]),
            np.dtype([("id", "u2"), ("value", "f2")]),
            np.dtype([("id", "u8"), ("charge", "f4")]),
            rows.dtype,
        ]
        other = np.zeros(len(rows), types[random.integers(len(types))])
        with np.errstate(all="ignore"):
            other[other.dtype.names[0]] = rows[other.dtype.names[0]]
            if "value" in other.dtype.names:
                other["id"], other["value"] = rows["id"], rows["value"]
        # A type that cannot hold the numbers makes another, undamaged, file.
        if other.dtype.kind == "V" and "value" in other.dtype.names:
            same = (other["id"] == rows["id"]) & (other["value"] == rows["value"])
            if not same.all():
                return
        name = table.name
        chunk = int(random.integers(1, len(rows) + 10)) if random.integers(4) else None
        larcv_fixtures.replace_table(file, name, other, chunk=chunk)


def change_length(path, random):
    """Makes a table longer or shorter."""
    with h5py.File(path, "r+") as file:
        table = pick_table(file, random, *TABLES)
        if random.integers(5) == 0:
            table = file["Events/event_id"]
        table.resize((int(random.integers(0, 2 * len(table) + 2)),))


def copy_with_other_content(path):
    """A whole file of the same tables, none of whose numbers is the same."""
    other = f"{path}.other"
    shutil.copyfile(path, other)
    with h5py.File(other, "r+") as file:
        for group in (larcv_fixtures.IMAGE_GROUP, larcv_fixtures.LABEL_GROUP):
            table = file[group]["voxels"]
            rows = table[:]
            rows["value"] = (rows["value"] + 1) % 3
            table[:] = rows
        rows = file["Events/event_id"][:]
        rows["event"] += 1
        file["Events/event_id"][:] = rows
    return other


def pick_name(random):
    """Name of a group or table of those that are read."""
    group = (larcv_fixtures.IMAGE_GROUP, larcv_fixtures.LABEL_GROUP)[random.integers(2)]
    tables = [f"{group}/{table}" for table in TABLES]
    names = ["Events", "Data", "Events/event_id", group, *tables]
    return names[random.integers(len(names))]


def link_elsewhere(path, random):
    """Puts a link where a group or table was: to another file, to this one, nowhere."""
    other, name = copy_with_other_content(path), pick_name(random)
    with h5py.File(path, "r+") as file:
        file["kept"] = file[name]
        del file[name]
        kind = random.integers(5)
        if kind == 0:
            file[name] = h5py.ExternalLink(other, name)
        elif kind == 1:
            file["away"] = h5py.ExternalLink(other, "/")
            file[name] = h5py.SoftLink(f"/away/{name}")
        elif kind == 2:
            file[name] = h5py.ExternalLink("none.h5", name)
        elif kind == 3:
            file[name] = h5py.SoftLink("/nowhere")
        else:
            file[name] = h5py.SoftLink("/kept")


def make_virtual(path, random):
    """Replaces a table by a virtual one: of another file, of this one, or of none."""
    other = copy_with_other_content(path)
    with h5py.File(path, "r+") as file:
        table = pick_table(file, random, *TABLES)
        name, layout = table.name, h5py.VirtualLayout(table.shape, table.dtype)
        kind = random.integers(3)
        file["kept"] = table
        source = ((other, name), (".", "kept"), ("none.h5", name))[kind]
        layout[:] = h5py.VirtualSource(*source, table.shape, table.dtype)
        del file[name]
        file.create_virtual_dataset(name, layout)


def damage_virtual(path, random):
    """Makes a table virtual, and changes bytes of what says where its rows are."""
    make_virtual(path, random)
    flip_near(path, random, b"GCOL")


def make_signed(path, random):
    """Rewrites an index table with signed numbers, one of them perhaps negative."""
    with h5py.File(path, "r+") as file:
        table = pick_table(file, random, "extents", "voxel_extents", "image_meta")
        rows, members = table[:], []
        for name in rows.dtype.names:
            item = rows.dtype[name]
            kind = item.base.str.replace("u", "i")
            members.append((name, kind, item.shape))
        signed = np.zeros(len(rows), np.dtype(members, align=True))
        for name in rows.dtype.names:
            signed[name] = rows[name]
        if random.integers(3):
            names = [
                n for n in ("first", "N", "projection_id") if n in members_of(rows)
            ]
            name = names[random.integers(len(names))]
            row, to = random.integers(len(rows), size=2)
            number = int(random.integers(1, 1000))
            # Where another row makes up for it, the sum shows nothing.
            signed[name][to] += signed[name][row] + number
            signed[name][row] = -number
        larcv_fixtures.replace_table(file, table.name, signed)


def members_of(rows):
    return rows.dtype.names or ()


BYTE_DAMAGES = (flip_bytes, flip_metadata_bytes, overwrite_block, truncate, shift_bytes)
LINK_DAMAGES = (link_elsewhere, make_virtual, damage_virtual)
TABLE_DAMAGES = (
    *(swap_chunks, change_chunk, change_index, change_type, change_length),
    make_signed,
)


def judge(number, seed, folder, undamaged):
    """Damages one file and reads it both ways; returns a finding or None.

    Ways are two and two: chunks past the library or not, loops in C or numpy. Each of
    the first goes with each of the second in turn.
    """
    random = np.random.default_rng([seed, number])
    damages = BYTE_DAMAGES + TABLE_DAMAGES + LINK_DAMAGES
    damage = damages[number % len(damages)]
    original = list(undamaged)[random.integers(len(undamaged))]
    path = os.path.join(folder, f"{os.getpid()}.h5")
    shutil.copyfile(original, path)
    damage(path, random)
    try:
        list_files.describe(listing.read(path), 80)
    except LarcvFileError:
        pass
    except BaseException as error:
        return f"{damage.__name__} of {original}: listing ended in {error!r}"
    # Tables that are consistent in themselves, but not as written, take strict mode.
    modes = (True,) if damage in TABLE_DAMAGES else (True, False)
    if damage is swap_chunks and "light" in original:
        modes = (True, False)
    refused = 0
    for strict in modes:
        for raw_chunks in (True, False):
            in_c = raw_chunks == (number // len(damages) % 2 == 0)
            native.routines = LIBRARY if in_c else None
            try:
                found = checksums(path, strict=strict, raw_chunks=raw_chunks)
            except LarcvFileError as error:
                refused += 1
                if "\n" in str(error) or path not in str(error):
                    return f"message without its file: {error}"
                continue
            except BaseException as error:
                return f"{damage.__name__} of {original}: {error!r}"
            truth = undamaged[original]
            if len(found) != len(truth) or any(
                f is not None and f != t for f, t in zip(found, truth, strict=True)
            ):
                mode = f"strict={strict}, raw_chunks={raw_chunks}, C={in_c}"
                return f"{damage.__name__} of {original}: silent wrong data, {mode}"
            refused += None in found
    return refused


def work(numbers, seed, folder, undamaged, pipe):
    """Process that judges files and reports each one."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    for number in numbers:
        pipe.send((number, judge(number, seed, folder, undamaged)))
    pipe.close()


def run(num_files, seed, first=0):
    """Judges files; returns findings by number, and how many were refused."""
    findings, refused, todo = {}, 0, list(range(first, first + num_files))

    def note(number, finding):
        findings[number] = finding
        sys.stderr.write(f"{number}: {finding}\n")

    # A fork would take over locks of other threads' libraries.
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        undamaged = {path: checksums(path) for path in write_undamaged(folder)}
        while todo:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=work, args=(todo, seed, folder, undamaged, sender)
            )
            process.start()
            sender.close()
            while todo:
                try:
                    if not receiver.poll(TIME_LIMIT_S):
                        note(todo.pop(0), "hang")
                        break
                    number, finding = receiver.recv()
                except EOFError:
                    note(todo.pop(0), "crash")
                    break
                assert number == todo.pop(0)
                if isinstance(finding, str):
                    note(number, finding)
                else:
                    refused += bool(finding)
            process.kill()
            process.join()
    return findings, refused


def main():
    """Command line; the exit status is 1 where anything was found."""
    parser = argparse.ArgumentParser(
        "python -m tests.support.fuzz_io", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    findings, refused = run(options.files, options.seed, options.first)
    sys.stdout.write(
        f"{options.files} files of seed {options.seed}: {len(findings)} findings, "
        f"{refused} refused, {options.files - refused - len(findings)} read right\n"
    )
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
