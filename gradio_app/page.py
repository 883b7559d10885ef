"""The whole page, and how it is served."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import gradio as gr

from diffusers_ext.rewards.errors import RewardDanceError

from . import arena_tab, compare_tab, guided_tab, search_tab, training_tab
from .loras import offer_loras
from .models import Models
from .runs import Runs
from .settings import Settings
from .telling import text
from .turns import Turns

_HERE: Final = Path(__file__).parent
_FONT: Final = ("system-ui", "sans-serif")
_MONO: Final = ("ui-monospace", "monospace")
_REFRESH: Final = 3.0
"""Seconds between looks at which models are loaded."""
_KEPT: Final = 24 * 3600
"""Seconds after which files of visitors are deleted."""


def build(settings: Settings) -> gr.Blocks:
    """The page as Gradio has it, with no model loaded yet; ``build(Settings()).launch(**look())`` serves it."""
    models, runs, turns = Models(settings), Runs(settings.runs, settings.device), Turns()
    with gr.Blocks(title="RewardDance", analytics_enabled=False, delete_cache=(3600, _KEPT)) as page:
        gr.Markdown(
            "# RewardDance\nA judge of pictures and videos: see what it makes of them, and say where it is wrong."
        )
        status = gr.HTML(_status(models), elem_id="status")
        with gr.Tabs():
            with gr.Tab("Compare", id="compare"):
                compare_tab.tab(models, turns, page)
            with gr.Tab("Best of N", id="search"):
                searched = search_tab.tab(models, runs, turns, settings)
            with gr.Tab("Guided", id="guided"):
                guided = guided_tab.tab(models, runs, turns, settings)
            with gr.Tab("Arena", id="arena"):
                arena_tab.tab(models, runs, turns, settings)
            if settings.trains:
                with gr.Tab("Training", id="training"):
                    training_tab.tab(models, runs, settings, page)
        offer_loras(runs, models, [searched, guided], page)
        for event in (gr.Timer(_REFRESH).tick, page.load):
            event(lambda: _status(models), None, status, queue=False, api_visibility="private", show_progress="hidden")
    page.queue(max_size=settings.most_waiting)
    threading.Thread(target=models.load_first, name="loading", daemon=True).start()
    return page


def look() -> dict[str, Any]:
    """How the page looks and reacts: options of `launch`. Fonts are the visitor's own, so that none is fetched."""
    return {
        "theme": gr.themes.Soft(font=_FONT, font_mono=_MONO, primary_hue="indigo"),
        "css_paths": _HERE / "style.css",
        "head": f"<script>{(_HERE / 'keys.js').read_text(encoding='utf-8')}</script>",
    }


def _status(models: Models) -> str:
    items = "".join(
        f'<li class="{"rd-failure" if model.state.startswith("cannot") else ""}">'
        f"<b>{text(model.name)}</b> {text(model.state)}</li>"
        for model in models.all
    )
    return f'<ul class="rd-status">{items}</ul>'


class AppError(RewardDanceError):
    """The page cannot be served as asked."""


def serve(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int | None = None,
    logins: Sequence[tuple[str, str]] = (),
    share: bool = False,
) -> None:
    """Serve the page until interrupted.

    Raises:
        AppError: the address or the port cannot be had.
    """
    page = build(settings)
    try:
        _, url, public = page.launch(
            server_name=host,
            server_port=port,
            auth=list(logins) or None,
            share=share,
            max_file_size=settings.most_megabytes * 10**6,
            footer_links=["api", "settings"],
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            **look(),
        )
    except OSError as error:
        raise AppError(f"{host}:{port or '7860 to 7959'}: cannot be listened at ({error})") from error
    who = reached_by(host, share, bool(logins))
    print(f"the page is at {(public or url).rstrip('/')}, open to {who}; stop with Ctrl-C", flush=True)
    page.block_thread()


def reached_by(host: str, share: bool, logins: bool) -> str:
    """Who can open a page that listens at an address."""
    if logins:
        return "those who can log in"
    if share:
        return "everyone"
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    return "this machine only" if local else "everyone who can reach it"
