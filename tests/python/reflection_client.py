"""Runs a command through a Fumehood daemon, knowing nothing but what server reflection says.

Usage: reflection_client.py SOCKET WORKSPACE

Needs grpcio, grpcio-reflection and protobuf; no generated code.
"""

import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main(socket, workspace):
    # gRPC's C core names a Unix socket by its path in `:authority`, percent-encoded, which servers in Rust refuse as no
    # authority (RFC 3986, section 3.2.2). Any name will do.
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{socket}", options) as channel:
        reflection = ProtoReflectionDescriptorDatabase(channel)
        services = set(reflection.get_services())
        for name in ("fumehood.v1.Runs", "fumehood.v1.Policies", "fumehood.v1.Node", "grpc.health.v1.Health"):
            assert name in services, f"{name} is not among {sorted(services)}"

        pool = descriptor_pool.DescriptorPool(reflection)
        runs = pool.FindServiceByName("fumehood.v1.Runs")

        def message(name):
            return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

        def call(method_name, kind):
            method = runs.methods_by_name[method_name]
            answer = message_factory.GetMessageClass(method.output_type)
            return getattr(channel, kind)(
                f"/fumehood.v1.Runs/{method_name}",
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=answer.FromString,
            )

        # Run: a stream each way.
        request = message("fumehood.v1.RunRequest")()
        request.start.spec.argv.extend([b"echo", b"hi"])
        request.start.spec.workspace = workspace.encode()
        events = list(call("Run", "stream_stream")(iter([request]), timeout=30))
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds[0] == "accepted" and kinds[1] == "started" and kinds[-1] == "finished", kinds
        assert sorted(kinds[2:-1]) == ["closed", "closed", "exited", "output"], kinds
        assert [event.seq for event in events] == list(range(1, len(events) + 1)), events
        assert b"".join(event.output.data for event in events if event.WhichOneof("event") == "output") == b"hi\n"
        finished = events[-1].finished
        assert finished.ending.WhichOneof("kind") == "exited" and finished.ending.exited.code == 0, finished
        assert len(events[1].started.enforcement.entries) == 11, events[1]

        # A failing command is a successful call.
        request.start.spec.argv[:] = [b"sh", b"-c", b"exit 3"]
        *_, last = call("Run", "stream_stream")(iter([request]), timeout=30)
        assert last.finished.ending.exited.code == 3, last

        # A malformed request is not.
        try:
            call("Start", "unary_unary")(message("fumehood.v1.StartRequest")(), timeout=30)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        else:
            raise AssertionError("a request without a spec was taken")

        # What was run can be listed.
        listed = call("List", "unary_unary")(message("fumehood.v1.ListRequest")(), timeout=30)
        assert len(listed.runs) == 2, listed
    print("all as documented")


if __name__ == "__main__":
    main(*sys.argv[1:])
