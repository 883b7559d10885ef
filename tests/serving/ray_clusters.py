from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager

import pytest
import ray


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def ray_cluster(metrics_port=None):
    """A small Ray of its own; a skip where Ray gives up on starting, as it does on machines busy with other work."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _metrics_export_port=metrics_port,
            _system_config={"metrics_report_interval_ms": 300},
        )
    except Exception as error:
        pytest.skip(f"Ray cannot be started here ({error})")
    try:
        yield
    finally:
        ray.shutdown()
