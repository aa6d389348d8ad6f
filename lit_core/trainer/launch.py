"""`python -m lit_core.trainer.launch DEVICES`: the trainer of a job with several processes.

It starts `python -m lit_core.trainer` in the job folder, DEVICES times on this machine, by torch's elastic launcher.
With more than one node, the launcher of the first node waits for the others at `--endpoint`. When one rank ends before
its time, all are ended: nothing is started again here, because the worker makes another attempt from the checkpoint.
Standard input, output and error are the ranks' own: `lit_core.trainer` says which of them uses which.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lit_core.trainer.supervision import die_with_parent
from lit_spec.trainer.folder import TrainerExit

TRAINER = ("-m", "lit_core.trainer", ".", "--supervised")
LOOK_SECONDS = 0.1
SECONDS_TO_STOP = 60
"""For a checkpoint after SIGTERM. The worker has shorter patience, and ends all of them."""

log = logging.getLogger("launcher")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lit_core.trainer.launch", description=__doc__)
    parser.add_argument("devices", type=int)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--node", type=int, default=0, help="this machine's number")
    parser.add_argument("--endpoint", help="host:port, on which the first node listens")
    parser.add_argument("--join-seconds", type=int, default=300, help="how long the nodes wait for each other")
    parser.add_argument("--run", default="lit", help="a name that all nodes of the run have in common")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s launcher: %(message)s")
    die_with_parent()
    if arguments.nodes == 1:
        # Nothing outside this machine can reach the ranks.
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    # Otherwise the launcher gives each rank one thread.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(len(os.sched_getaffinity(0)) // arguments.devices, 1)))
    config = LaunchConfig(
        min_nodes=arguments.nodes,
        max_nodes=arguments.nodes,
        nproc_per_node=arguments.devices,
        # Not c10d, whose state is pickled.
        rdzv_backend="static",
        rdzv_endpoint=arguments.endpoint or f"127.0.0.1:{free_port()}",
        rdzv_configs={"rank": arguments.node, "timeout": arguments.join_seconds},
        run_id=arguments.run,
        role="trainer",
        max_restarts=0,
        monitor_interval=LOOK_SECONDS,
        local_addr="127.0.0.1" if arguments.nodes == 1 else None,
        logs_specs=DefaultLogsSpecs(),
        shutdown_timeout=SECONDS_TO_STOP,
    )
    try:
        elastic_launch(config, sys.executable)(*TRAINER)
    except SignalException:
        log.info("asked to stop; the ranks have ended")
        return TrainerExit.DONE
    except ChildFailedError as failure:
        place, first = failure.get_first_failure()
        how = first.signal_name() if first.exitcode < 0 else f"exit code {first.exitcode}"
        log.error("rank %d ended with %s, so the others were ended", place, how)
        return first.exitcode if first.exitcode > 0 else TrainerExit.FAILED
    return TrainerExit.DONE


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
