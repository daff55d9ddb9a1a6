"""Renders CLEVR scenes with Cycles; run by an interpreter that has `bpy`, one process for many frames.

A standalone script: it imports bpy, numpy and the standard library and nothing of this project. It reads one JSON
object a line on stdin, `{"scene": <ClevrScene.to_dict()>, "resolution": pixels, "samples": paths per pixel, "path":
file}`, writes the frame as PNG to `path` and answers one line on stdout, `{"path": file}` or `{"error": message}`.
An empty stdin ends it. What Blender itself prints goes to stderr.

The scene is built once and its objects are changed from frame to frame. Materials: rubber is a rough dielectric,
metal a conductor of roughness 0.2. The seed of Cycles is fixed, so equal scenes give equal frames on the same
machine.
"""

import json
import math
import os
import sys
from typing import Any, TextIO

import bpy
import numpy as np

BEVEL = 0.06  # of the half edge, as the rounded edges of CLEVR's SmoothCube
LAMPS = {"key": (0.8, 260.0), "fill": (0.8, 35.0), "back": (0.8, 80.0)}  # width in world units, power in watts
FLOOR_ALBEDO = 0.6
WORLD_RADIANCE = 0.15


def main() -> None:
    """Answer requests until stdin ends."""
    answers = _take_stdout()
    stage = Studio()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            stage.render(request)
            answer = {"path": request["path"]}
        except (RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _take_stdout() -> TextIO:
    """Keep stdout for the answers alone: Blender's own messages, written by C code, go to stderr from here on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


class Studio:
    """Floor, lamps, camera and a growing row of objects; `render` sets all of them from a request."""

    def __init__(self) -> None:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self.scene = bpy.context.scene
        _configure(self.scene)
        self.meshes = {"cube": _cube(), "sphere": _sphere(), "cylinder": _cylinder()}
        self.objects: list[Any] = []
        self.camera = self._add("camera", bpy.data.cameras.new("camera"))
        self.scene.camera = self.camera
        self.lamps = {name: self._add(name, _lamp(name, *values)) for name, values in LAMPS.items()}
        self._add("floor", _floor())

    def render(self, request: dict[str, Any]) -> None:
        """Set the stage as the request's scene says and write the frame."""
        record = request["scene"]
        self._place_camera(record["camera"])
        for name, lamp in self.lamps.items():
            lamp.matrix_world = _looking(record["lights"][name], (0.0, 0.0, 0.0))
        while len(self.objects) < len(record["objects"]):
            self.objects.append(self._new_object(len(self.objects)))
        for index, item in enumerate(self.objects):
            item.hide_render = index >= len(record["objects"])
        for item, values in zip(self.objects, record["objects"], strict=False):
            self._place(item, values)
        settings = self.scene.render
        settings.resolution_x = settings.resolution_y = int(request["resolution"])
        self.scene.cycles.samples = int(request["samples"])
        settings.filepath = request["path"]
        bpy.ops.render.render(write_still=True)

    def _add(self, name: str, data: Any) -> Any:
        item = bpy.data.objects.new(name, data)
        self.scene.collection.objects.link(item)
        return item

    def _new_object(self, index: int) -> Any:
        item = self._add(f"object{index}", self.meshes["cube"])
        material = _material(f"material{index}")
        item.material_slots[0].link = "OBJECT"
        item.material_slots[0].material = material
        return item

    def _place_camera(self, values: dict[str, Any]) -> None:
        data = self.camera.data
        data.lens, data.sensor_width, data.shift_y = values["lens"], values["sensor"], -values["shift"]
        self.camera.matrix_world = _looking(values["position"], values["target"])

    def _place(self, item: Any, values: dict[str, Any]) -> None:
        item.data = self.meshes[values["shape"]]
        half = values["radius"] / math.sqrt(2) if values["shape"] == "cube" else values["radius"]
        item.location = (*values["position"], half)
        item.scale = (half, half, half)
        item.rotation_euler = (0.0, 0.0, math.radians(values["rotation"]))
        shader = item.material_slots[0].material.node_tree.nodes["Principled BSDF"]
        metal = values["material"] == "metal"
        shader.inputs["Base Color"].default_value = (*values["rgb"], 1.0)
        shader.inputs["Metallic"].default_value = 1.0 if metal else 0.0
        shader.inputs["Roughness"].default_value = 0.2 if metal else 0.7
        shader.inputs["Specular IOR Level"].default_value = 0.5 if metal else 0.2


def _configure(scene: Any) -> None:
    settings = scene.render
    settings.engine = "CYCLES"
    settings.resolution_percentage = 100
    settings.threads_mode, settings.threads = "FIXED", 1
    settings.image_settings.file_format = "PNG"
    settings.image_settings.color_mode = "RGB"
    settings.image_settings.compression = 0
    settings.use_persistent_data = True
    scene.view_settings.view_transform = "Standard"
    cycles = scene.cycles
    cycles.device, cycles.seed = "CPU", 0
    cycles.max_bounces = cycles.diffuse_bounces = cycles.glossy_bounces = 4
    cycles.use_adaptive_sampling = False
    cycles.use_denoising = True
    cycles.denoiser = "OPENIMAGEDENOISE"
    cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
    # albedo and normal of such simple scenes carry no noise: filtering them first costs twice the time and changes
    # nothing
    cycles.denoising_prefilter = "NONE"
    world = bpy.data.worlds.new("world")
    scene.world = world
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (WORLD_RADIANCE,) * 3 + (1.0,)


def _looking(position: Any, target: Any) -> list[list[float]]:
    """The pose, as a matrix of four rows, of a camera or lamp at `position` whose view (its -z) points at `target`."""
    view = np.subtract(target, position)
    view = view / np.linalg.norm(view)
    right = np.cross(view, (0.0, 0.0, 1.0))
    right = right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(right, view), -view, position], axis=1)
    # Blender reads a matrix from nested sequences column by column
    return [[float(value) for value in row] for row in pose.T]


def _lamp(name: str, width: float, power: float) -> Any:
    lamp = bpy.data.lights.new(name, type="AREA")
    lamp.size, lamp.energy = width, power
    return lamp


def _floor() -> Any:
    mesh = bpy.data.meshes.new("floor")
    far = 60.0
    mesh.from_pydata([(-far, -far, 0), (far, -far, 0), (far, far, 0), (-far, far, 0)], [], [(0, 1, 2, 3)])
    material = _material("floor")
    shader = material.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (FLOOR_ALBEDO,) * 3 + (1.0,)
    shader.inputs["Roughness"].default_value = 0.8
    shader.inputs["Specular IOR Level"].default_value = 0.1
    mesh.materials.append(material)
    return mesh


def _material(name: str) -> Any:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    return material


def _cube() -> Any:
    bpy.ops.mesh.primitive_cube_add(size=2.0)
    return _mesh("cube", bevel=BEVEL)


def _sphere() -> Any:
    bpy.ops.mesh.primitive_uv_sphere_add(radius=1.0, segments=64, ring_count=32)
    return _mesh("sphere", smooth=True)


def _cylinder() -> Any:
    # 128 flat sides are rounder than a pixel at any resolution used here, and leave the caps flat
    bpy.ops.mesh.primitive_cylinder_add(radius=1.0, depth=2.0, vertices=128)
    return _mesh("cylinder", bevel=BEVEL / 2)


def _mesh(name: str, *, smooth: bool = False, bevel: float = 0.0) -> Any:
    """The mesh of the object just added, which is removed; edges sharper than 30 degrees rounded by `bevel`."""
    item = bpy.context.object
    if bevel > 0.0:
        modifier = item.modifiers.new("bevel", "BEVEL")
        modifier.width, modifier.segments, modifier.limit_method = bevel, 4, "ANGLE"
        bpy.ops.object.modifier_apply(modifier="bevel")
    mesh = item.data
    mesh.name = name
    mesh.polygons.foreach_set("use_smooth", [smooth] * len(mesh.polygons))
    mesh.materials.append(_material(name))
    bpy.data.objects.remove(item)
    return mesh


if __name__ == "__main__":
    main()
