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

from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from lit_core.trainer.supervision import die_with_parent
from lit_spec.trainer.folder import SIGNALLED, TrainerExit

TRAINER = ("-m", "lit_core.trainer", ".", "--supervised")
LOOK_SECONDS = 0.1
SECONDS_AT_END = 2
"""How long a launcher whose ranks have finished waits for those of the other nodes. Only the first rank has more to do
then, and nobody needs the others for it."""
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
    try:
        result = _agent(arguments).run()
    except SignalException:
        log.info("asked to stop; the ranks have ended")
        return TrainerExit.DONE
    if not result.is_failed():
        return TrainerExit.DONE
    rank, first = min(result.failures.items(), key=lambda item: item[1].timestamp)
    how = first.signal_name() if first.exitcode < 0 else f"exit code {first.exitcode}"
    log.error("rank %d ended with %s, so the others were ended", rank, how)
    code: int = first.exitcode
    return code if code > 0 else SIGNALLED - code


def _agent(arguments: argparse.Namespace) -> LocalElasticAgent:
    """As `torch.distributed.run` makes it, with a shorter wait at the end."""
    alone = arguments.nodes == 1
    host, _, port = (arguments.endpoint or f"127.0.0.1:{free_port()}").rpartition(":")
    local_address = host if alone else None
    rendezvous = RendezvousParameters(
        # Not c10d, whose state is pickled.
        backend="static",
        endpoint=f"{host}:{port}",
        run_id=arguments.run,
        min_nodes=arguments.nodes,
        max_nodes=arguments.nodes,
        local_addr=local_address,
        rank=arguments.node,
        timeout=arguments.join_seconds,
    )
    spec = WorkerSpec(
        role="trainer",
        local_world_size=arguments.devices,
        entrypoint=sys.executable,
        args=TRAINER,
        rdzv_handler=get_rendezvous_handler(rendezvous),
        max_restarts=0,
        monitor_interval=LOOK_SECONDS,
        master_addr=host,
        master_port=int(port),
        local_addr=local_address,
    )
    return LocalElasticAgent(
        spec, DefaultLogsSpecs(), exit_barrier_timeout=SECONDS_AT_END, shutdown_timeout=SECONDS_TO_STOP
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
