"""A gRPC server: it answers every call of ``/who/am_i`` with its client's address. Its argument is where it listens."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc  # type: ignore[import-untyped]


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: context.peer().encode())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("who", {"am_i": handler}),))
    for address in sys.argv[1:]:
        print(f" starting on {server.add_insecure_port(address)}", flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
