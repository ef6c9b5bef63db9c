"""A Ray Serve application with an OpenAI-compatible API and llama.cpp inside: each replica runs a llama-server of its own and
passes requests on to it, word by word. Stands in for whatever a larger fleet runs behind the node.

    LLAMA_SERVER=/path/llama-server MODEL_PATH=/path/model.gguf PORT=8000 python app.py
"""

import asyncio
import os
import signal
import socket
import subprocess

import httpx
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=8,
    health_check_period_s=1,
    ray_actor_options={"num_cpus": 0.5},
)
class Llama:
    def __init__(self, server: str, model: str) -> None:
        self.port = free_port()
        arguments = [server, "--model", model, "--host", "127.0.0.1", "--port", str(self.port)]
        arguments += ["--ctx-size", "2048", "--parallel", "2", "--no-kv-unified", "--threads", "1", "--jinja", "--log-disable"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.child = subprocess.Popen(arguments, **quiet)
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=120, trust_env=False)

    async def ready(self) -> None:
        for _ in range(600):
            try:
                if (await self.http.get("/health")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
        raise RuntimeError("llama-server does not start")

    def check_health(self) -> None:
        if self.child.poll() is not None:
            raise RuntimeError("llama-server has ended")

    async def __call__(self, request: Request) -> Response:
        await self.ready()
        path, body = request.url.path, await request.body()
        headers = {"content-type": "application/json"}
        outgoing = self.http.build_request(request.method, path, content=body, headers=headers)
        answer = await self.http.send(outgoing, stream=True)
        kind = answer.headers.get("content-type", "application/json")
        if answer.status_code != 200 or "event-stream" not in kind:
            whole = await answer.aread()
            await answer.aclose()
            return Response(whole, status_code=answer.status_code, media_type=kind)

        async def pieces():
            # Whoever goes away closes this, and with it the connection to llama-server, which then stops computing.
            try:
                async for piece in answer.aiter_raw():
                    yield piece
            finally:
                await answer.aclose()

        return StreamingResponse(pieces(), media_type=kind, headers={"x-replica-pid": str(os.getpid())})

    def __del__(self) -> None:
        if getattr(self, "child", None) is not None:
            self.child.kill()


def main() -> None:
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ.get("PORT", "8000"))})
    serve.run(Llama.bind(os.environ["LLAMA_SERVER"], os.environ["MODEL_PATH"]), route_prefix="/")
    print("serving", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
