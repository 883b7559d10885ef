from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager

import ray


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def ray_cluster(metrics_port=None):
    """A small Ray of its own. (Ray gives up on starting where its agents take more than some 15 seconds to come up.)"""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
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
    try:
        yield
    finally:
        ray.shutdown()
