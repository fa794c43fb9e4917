"""A chat-completions server that takes a fixed time for each answer, many at once.

`python generate_server.py SLOTS SECONDS` prints its port. Its limit is SLOTS / SECONDS requests a
second: what comes beyond waits for a slot, first come, first served. `GET /` tells what it did.
"""

import asyncio
import json
import sys
import time
from collections import deque
from typing import Any


class Desk:
    """The slots, and who waits for one."""

    def __init__(self, slots: int, seconds: float) -> None:
        self.free, self.seconds = slots, seconds
        self.waiting: deque[Any] = deque()
        self.count, self.first, self.last = 0, 0.0, 0.0

    def ask(self, answer: Any) -> None:
        """Call `answer` after the fixed time, once there is a slot."""
        self.first = self.first or time.monotonic()
        if self.free:
            self.free -= 1
            asyncio.get_running_loop().call_later(self.seconds, self._answered, answer)
        else:
            self.waiting.append(answer)

    def _answered(self, answer: Any) -> None:
        self.free += 1
        self.count, self.last = self.count + 1, time.monotonic()
        if self.waiting:
            self.ask(self.waiting.popleft())
        answer()

    def row_with_id(self) -> bytes:
        """Answers given, and the seconds from the first request to the last answer."""
        content = json.dumps({"count": self.count, "seconds": self.last - self.first}).encode()
        self.count, self.first = 0, 0.0
        return content


class Http(asyncio.Protocol):
    """Just enough of HTTP/1.1 for clients that send whole requests with a length."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole request there is."""
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.data) < end + 4 + length:
                return
            body = self.data[end + 4 : end + 4 + length]
            self.data = self.data[end + 4 + length :]
            if head.startswith(b"get"):
                self.send(self.desk.row_with_id())
            else:
                self.desk.ask(lambda body=body: self.send(_answer(body)))

    def send(self, content: bytes) -> None:
        """Send a body."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head % len(content) + content)


def _answer(body: bytes) -> bytes:
    asked = json.loads(body)["messages"][-1]["content"]
    message = {"role": "assistant", "content": f"An answer to: {asked}"}
    return json.dumps(
        {
            "id": "x", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60},
        }
    ).encode()  # fmt: skip


async def main(slots: int, seconds: float) -> None:
    """Serve until killed."""
    desk = Desk(slots, seconds)
    server = await asyncio.get_running_loop().create_server(
        lambda: Http(desk), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
