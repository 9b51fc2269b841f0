"""Small files of point clouds and meshes for tests, written by hand in every format that is read."""

import io
import struct
import zipfile

import numpy as np

TETRAHEDRON = np.array([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
FACES = np.array([(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)])


def ball(count=300, seed=0):
    """Points on a sphere, `[count 3]`."""
    out = np.random.default_rng(seed).normal(size=(count, 3))
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def npz(**arrays):
    """A compressed .npz file as bytes."""
    memory = io.BytesIO()
    np.savez_compressed(memory, **arrays)
    return memory.getvalue()


def npy(array):
    memory = io.BytesIO()
    np.save(memory, array)
    return memory.getvalue()


def npy_head(shape, descr="<f4"):
    """The first bytes of a .npy file, whatever they promise."""
    head = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def zipped(data, name="points.npy", count=1):
    """An .npz file of one member, its bytes so many times over."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as file:
        for _ in range(count):
            file.write(data)
    return memory.getvalue()


def xyz(*columns, between=" "):
    """Rows of text."""
    return "\n".join(between.join(f"{x:.6f}" for x in row) for row in np.concatenate(columns, axis=1)).encode()


def ply(vertices, faces=None, *, colour=None, normals=None, face_colour=None, form="binary_little_endian", head=None):
    """A .ply file as bytes. `head` replaces the (vertex, face) counts of its header."""
    order, is_text = (">" if "big" in form else "<"), form == "ascii"
    kinds = [(name, f"{order}f4") for name in "xyz"]
    parts = [vertices]
    if normals is not None:
        kinds += [(name, f"{order}f4") for name in ("nx", "ny", "nz")]
        parts.append(normals)
    if colour is not None:
        kinds += [(name, "u1") for name in ("red", "green", "blue")]
        parts.append(colour)
    counts = head or (len(vertices), 0 if faces is None else len(faces))
    names = {f"{order}f4": "float", "u1": "uchar"}
    lines = ["ply", f"format {form} 1.0", f"element vertex {counts[0]}"]
    lines += [f"property {names[kind]} {name}" for name, kind in kinds]
    if faces is not None:
        lines += [f"element face {counts[1]}", "property list uchar int vertex_indices"]
        lines += [] if face_colour is None else [f"property uchar {name}" for name in ("red", "green", "blue")]
    data = "\n".join([*lines, "end_header", ""]).encode()
    table = _table(np.concatenate(parts, axis=1), kinds)
    rows = [] if faces is None else [_face(face, face_colour, at) for at, face in enumerate(faces)]
    if is_text:
        text = [" ".join(map(repr, map(float, row))) for row in np.concatenate(parts, axis=1)]
        text += [" ".join(map(str, [len(face), *face, *colour])) for face, colour in rows]
        return data + "\n".join(text).encode() + b"\n"
    return data + table.tobytes() + b"".join(_face_bytes(face, colour, order) for face, colour in rows)


def _face(face, face_colour, at):
    return list(map(int, face)), [] if face_colour is None else list(map(int, face_colour[at]))


def _face_bytes(face, colour, order):
    return bytes([len(face)]) + np.array(face, f"{order}i4").tobytes() + bytes(colour)


def _table(values, kinds):
    table = np.empty(len(values), kinds)
    for (name, _), column in zip(kinds, values.T, strict=True):
        table[name] = column
    return table


def off(vertices, faces, head=None):
    counts = head or (len(vertices), len(faces))
    rows = [" ".join(f"{x:.6f}" for x in vertex) for vertex in vertices]
    rows += [" ".join(map(str, [len(face), *face])) for face in faces]
    return "\n".join([f"OFF\n# a comment\n{counts[0]} {counts[1]} 0", *rows, ""]).encode()


def obj(vertices, faces, colour=None):
    beside = [""] * len(vertices) if colour is None else [f" {r} {g} {b}" for r, g, b in colour]
    rows = ["mtllib /etc/passwd", "usemtl secret"]
    rows += [f"v {x} {y} {z}{more}" for (x, y, z), more in zip(vertices, beside, strict=True)]
    rows += ["f " + " ".join(str(i + 1) for i in face) for face in faces]
    return "\n".join([*rows, ""]).encode()


def stl(vertices, faces, count=None):
    """In binary."""
    rows = [struct.pack("<12fH", *[0.0] * 3, *np.asarray(vertices)[list(face)].ravel(), 0) for face in faces]
    return bytes(80) + struct.pack("<I", len(faces) if count is None else count) + b"".join(rows)


def stl_text(vertices, faces):
    rows = ["solid one"]
    for face in faces:
        corners = [f"vertex {x} {y} {z}" for x, y, z in np.asarray(vertices)[list(face)]]
        rows += ["facet normal 0 0 0", "outer loop", *corners, "endloop", "endfacet"]
    return "\n".join([*rows, "endsolid one", ""]).encode()


def pcd(values, names=("x", "y", "z"), *, form="binary", count=None, sizes=None):
    """A .pcd file of floats, in text or binary. `count` replaces the number of points in its header."""
    count = len(values) if count is None else count
    head = [
        "VERSION .7",
        "FIELDS " + " ".join(names),
        "SIZE " + " ".join(map(str, sizes or [4] * len(names))),
        "TYPE " + " ".join(["F"] * len(names)),
        "COUNT " + " ".join(["1"] * len(names)),
        f"WIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {form}\n",
    ]
    data = xyz(values) if form == "ascii" else np.asarray(values, "<f4").tobytes()
    return "\n".join(head).encode() + data
