"""
What a request costs beyond the model: round trips of openpi-client with three 224x224 images, less the time the model
took (policy_timing; "served": less that of the transforms too, server_timing), to

    pi0      `pi0 serve` with the tiny model
    socket   a socket that reads the message and answers at once with bytes made before: what client and kernel need
    openpi   openpi's server design, python websockets and msgpack-numpy, with a stub that sleeps as long as the model

Rounds go to the three in turn, so that whatever else the machine does falls on all of them.

    python bench/serve/overhead.py [--pi0 build/pi0] [--rounds 300] [--json]

Needs openpi-client and its dependencies (tests/python/requirements.txt).
"""

import argparse
import asyncio
import base64
import hashlib
import json
import multiprocessing
import pathlib
import socket
import struct
import subprocess
import time

import numpy as np
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


def observation():
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (3, 224, 224), dtype=np.uint8) for name in CAMERAS}
    return {"state": rng.normal(size=14), "images": images, "prompt": "transfer cube"}


def response(infer_ms):
    return {"actions": np.zeros((50, 14)), "policy_timing": {"infer_ms": infer_ms},
            "server_timing": {"infer_ms": infer_ms}}


def read_exactly(connection, view):
    while len(view):
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]


def frame(payload):
    """An unmasked binary websocket frame."""
    size = len(payload)
    head = struct.pack("!BB", 0x82, size) if size < 126 else struct.pack("!BBH", 0x82, 126, size)
    return head + payload


def swallow(port):
    """One client after the other; masks are not even taken off."""
    listener = socket.create_server(("127.0.0.1", 0))
    port.value = listener.getsockname()[1]
    answer, buffer = frame(msgpack_numpy.packb(response(0.0))), bytearray(16 << 20)
    while True:
        connection, _ = listener.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        key = [line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")][0]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + frame(b"\x80"))
        view = memoryview(buffer)
        try:
            while True:
                read_exactly(connection, view[:2])
                short = buffer[1] & 127
                if buffer[0] & 15 == 8:
                    break
                wide = {126: 2, 127: 8}.get(short, 0)
                read_exactly(connection, view[:wide + 4])
                size = int.from_bytes(buffer[:wide], "big") if wide else short
                read_exactly(connection, view[:size])
                connection.sendall(answer)
        except EOFError:
            pass
        connection.close()


def openpi_design(port, infer_ms):
    """Decodes, infers (here: sleeps) and encodes inside the event loop, as openpi's server does."""
    import websockets.asyncio.server

    async def handle(connection):
        packer = msgpack_numpy.Packer()
        await connection.send(packer.pack({}))
        while True:
            msgpack_numpy.unpackb(await connection.recv())
            begin = time.monotonic()
            time.sleep(infer_ms / 1000)
            await connection.send(packer.pack(response((time.monotonic() - begin) * 1000)))

    async def main():
        server = await websockets.asyncio.server.serve(handle, "127.0.0.1", 0, compression=None, max_size=None)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


def start(target, *arguments):
    port = multiprocessing.Value("i", 0)
    process = multiprocessing.Process(target=target, args=(port, *arguments), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.01)
    return process, port.value


def ask(client, request):
    """Milliseconds beyond the model, beyond model and transforms, and of the model."""
    begin = time.perf_counter()
    answer = client.infer(request)
    total = (time.perf_counter() - begin) * 1000
    infer = answer["policy_timing"]["infer_ms"]
    return total - infer, total - answer["server_timing"]["infer_ms"], infer


def measure(pi0, rounds):
    command = [pi0, "serve", "--config", "pi0_aloha", "--model", "tiny-pi0", "--checkpoint", "synthetic:1",
               "--tokenizer", ROOT / "tests/data/golden/tokenizer/tiny.model", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    helpers = []
    try:
        port = int(server.stdout.readline().split()[2].rsplit(":", 1)[1])
        clients = {"pi0": WebsocketClientPolicy("127.0.0.1", port)}
        request = observation()
        model = float(np.median([ask(clients["pi0"], request)[2] for _ in range(20)]))
        for name, target, *arguments in (("socket", swallow), ("openpi", openpi_design, model)):
            process, port = start(target, *arguments)
            helpers.append(process)
            clients[name] = WebsocketClientPolicy("127.0.0.1", port)
        times = {name: [] for name in [*clients, "served"]}
        for i in range(rounds + 10):
            for name, client in clients.items():
                beyond, served, _ = ask(client, request)
                if i >= 10:
                    times[name].append(beyond)
                if i >= 10 and name == "pi0":
                    times["served"].append(served)
    finally:
        for process in helpers:
            process.terminate()
        server.terminate()
        server.wait()
    points = {name: {f"p{p}_ms": round(float(np.percentile(values, p)), 3) for p in (50, 90, 99)}
              for name, values in times.items()}
    p50 = {name: figures["p50_ms"] for name, figures in points.items()}
    return {"rounds": rounds, "model_p50_ms": round(model, 3), "beyond_the_model": points,
            "above_socket_ms": {name: round(p50[name] - p50["socket"], 3) for name in ("pi0", "served", "openpi")}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pi0", default=ROOT / "build" / "pi0")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.pi0, options.rounds)
    if options.json:
        print(json.dumps(result))
        return
    print(f"the model itself: p50 {result['model_p50_ms']} ms; beyond it, {result['rounds']} rounds:")
    for name, figures in result["beyond_the_model"].items():
        print(f"  {name:7}" + "".join(f"  {key} {value:7.3f}" for key, value in figures.items()))
    print("p50 above the socket, ms: " + ", ".join(f"{k} {v}" for k, v in result["above_socket_ms"].items()))


if __name__ == "__main__":
    main()
