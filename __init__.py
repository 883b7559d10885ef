"""The pack's door for ComfyUI, which loads the root of its folder; as a library, import `diffusers_ext`."""

from importlib.util import find_spec

if find_spec("comfy_api") is not None:  # only inside ComfyUI: test runners and linters come by here too
    from .comfy_nodes import WEB_DIRECTORY, comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
