"""The thin client: sends what the frameworks' own clients cannot express, and measures at the client.

Run as `python -m revati.experiments.drivers.client PLAN.json` inside the clock of the experiment. Times come from
time.perf_counter_ns, which is the virtual clock there; nothing in this file knows that it is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import aiohttp

from revati import RevatiError
from revati.experiments.case import Case
from revati.experiments.drivers.records import RequestRecord
from revati.experiments.drivers.scrape import look, scrape_for_ever
from revati.experiments.drivers.timer import Timer
from revati.experiments.workloads import ClosedClass, PromptMaker, Session, Workload

__all__ = ["ClientPlan", "main"]

_IN_FLIGHT_MAX = 20_000


@dataclass(frozen=True)
class ClientPlan:
    """What the client has to know; the file it is started with."""

    case: dict[str, Any]
    base: str
    url: str
    model: str
    dialect: str  # vllm, sglang or openai: which extensions the server understands
    out: str  # directory for requests.jsonl, samples.jsonl, client.json

    def case_object(self) -> Case:
        return Case(self.case, Path(self.base))


class Client:
    """Sends one workload. All state of a run."""

    def __init__(
        self, plan: ClientPlan, http: aiohttp.ClientSession, timer: Timer, lines: IO[str], samples: IO[str]
    ) -> None:
        self.plan = plan
        self.case = plan.case_object()
        self.http = http
        self.timer = timer
        self.lines = lines
        self.samples = samples
        self.prompts = PromptMaker(self.case.seed, self.case.data["model"]["token_ids_below"])
        self.start_ns = 0
        self.duration_ns = 0
        self.left = self.case.workload["requests"]
        self.request_limit_s = self.case.limits["request_virtual_s"]
        self.timeout = aiohttp.ClientTimeout(total=self.request_limit_s)
        self.tasks: set[asyncio.Task[None]] = set()
        self.slots = asyncio.Semaphore(_IN_FLIGHT_MAX)
        self.failure: BaseException | None = None
        self.sent = 0
        self.finished = 0

    def now_ns(self) -> int:
        return time.perf_counter_ns() - self.start_ns

    async def run(self, workload: Workload) -> str:
        """Sends everything; returns why it ended: 'finished' or the limit that was reached."""
        self.start_ns = time.perf_counter_ns()
        users = [
            asyncio.create_task(self._user(group, workload, number))
            for group in workload.closed
            for number in range(group.concurrency)
        ]
        limit_ns = self.start_ns + round(self.case.limits["virtual_s"] * 1e9)
        work = asyncio.create_task(self._all(workload, users))
        scraper = asyncio.create_task(scrape_for_ever(self))
        watch = asyncio.create_task(self.timer.sleep_until(limit_ns))
        done, _ = await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        self.duration_ns = self.now_ns()
        scraper.cancel()
        await asyncio.gather(scraper, return_exceptions=True)
        if work in done:
            watch.cancel()
            work.result()
            return "finished"
        for task in [work, *users, *self.tasks]:
            task.cancel()
        await asyncio.gather(work, *users, *self.tasks, return_exceptions=True)
        return "virtual time limit"

    async def _all(self, workload: Workload, users: list[asyncio.Task[None]]) -> None:
        for session in self._counted(workload.open_sessions()):
            await self.timer.sleep_until(self.start_ns + session.at_ns)
            await self.slots.acquire()
            task = asyncio.create_task(self._session(session, session.at_ns))
            self.tasks.add(task)
            task.add_done_callback(self._done)
        await asyncio.gather(*users)
        while self.tasks:
            await asyncio.wait(self.tasks)
        if self.failure is not None:
            raise self.failure

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.slots.release()
        if not task.cancelled() and task.exception() is not None:
            self.failure = self.failure or task.exception()

    def _counted(self, sessions: Iterator[Session]) -> Iterator[Session]:
        for session in sessions:
            if not self._take():
                return
            yield session

    def _take(self) -> bool:
        if self.left is None:
            return True
        self.left -= 1
        return bool(self.left >= 0)

    async def _user(self, group: ClosedClass, workload: Workload, number: int) -> None:
        """One user of a closed loop."""
        due_ns = 0
        while workload.duration_ns is None or due_ns < workload.duration_ns:
            session = next(group.sessions, None) if self._take() else None
            if session is None:
                return
            await self._session(session, due_ns)
            due_ns = self.now_ns() + round(group.think_s() * 1e9)
            await self.timer.sleep_until(self.start_ns + due_ns)

    async def _session(self, session: Session, planned_ns: int) -> None:
        history: list[int] = []
        synthetic = False
        for turn, call in enumerate(session.calls):
            if turn > 0:
                planned_ns = self.now_ns() + call.wait_ns
                await self.timer.sleep_until(self.start_ns + planned_ns)
            prompt = self.prompts.tokens(call.segments)
            if call.fresh:
                synthetic = False
            else:
                prompt = history + prompt
            record = RequestRecord(
                id=f"{session.klass}/{session.index}/{turn}",
                klass=session.klass,
                session=session.index,
                call=turn,
                planned_ns=planned_ns,
                sent_ns=0,
                input_tokens=len(prompt),
                output_tokens_asked=call.output_tokens,
                synthetic_history=synthetic,
            )
            last = turn == len(session.calls) - 1
            answer = await self._request(record, prompt, keep_answer=not last)
            self.lines.write(record.line())
            self.lines.flush()
            self.finished += 1
            if record.error is not None:
                return  # the later calls depend on this one
            if not last:
                chat = self.case.workload["endpoint"] == "chat"  # ids go as words there, the answer's text does not
                synthetic = synthetic or chat or len(answer) != record.output_tokens
                missing = max(0, record.output_tokens - len(answer))
                history = (
                    prompt + answer + self.prompts.tokens(((f"u/answer/{record.id}", missing),) if missing else ())
                )

    async def _request(self, record: RequestRecord, prompt: list[int], *, keep_answer: bool) -> list[int]:
        """Sends one request and fills in its record; returns the answer's token ids where the server tells them."""
        body = request_body(self.plan, record, prompt, keep_answer)
        path = "/v1/chat/completions" if self.case.workload["endpoint"] == "chat" else "/v1/completions"
        answer: list[int] = []
        self.sent += 1
        record.sent_ns = self.now_ns()
        try:
            async with self.http.post(self.plan.url + path, json=body, timeout=self.timeout) as response:
                record.status = response.status
                if response.status != 200:
                    text = (await response.text())[:300]
                    record.error = f"HTTP {response.status}: {text}"
                else:
                    await self._read(response, record, answer)
        except asyncio.CancelledError:
            record.error = "stopped: the limit of the run was reached"
            record.end_ns = self.now_ns()
            self.lines.write(record.line())
            self.lines.flush()
            raise
        except (TimeoutError, asyncio.TimeoutError):
            record.error = f"no answer within {self.request_limit_s:g} s of virtual time"
        except aiohttp.ClientError as error:
            record.error = f"{type(error).__name__}: {error}"
        record.end_ns = self.now_ns()
        if record.error is None and record.output_tokens == 0:
            record.error = "the answer carried no tokens"
        return answer

    async def _read(self, response: aiohttp.ClientResponse, record: RequestRecord, answer: list[int]) -> None:
        """Server-sent events; every piece that carries tokens gets the time it was read at."""
        rest = b""
        async for data in response.content.iter_any():
            now_ns = self.now_ns()
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                for line in event.split(b"\n"):
                    if line.startswith(b"data:"):
                        payload = line[5:].strip()
                        if payload != b"[DONE]":
                            _take_event(record, json.loads(payload), now_ns, answer)
        if rest.strip():
            record.error = "the answer's stream ended in the middle of an event"


def request_body(plan: ClientPlan, record: RequestRecord, prompt: list[int], keep_answer: bool) -> dict[str, Any]:
    """The JSON of one request; token ids as the prompt, so that no tokenizer changes its length."""
    body: dict[str, Any] = {
        "model": plan.model,
        "max_tokens": record.output_tokens_asked,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if plan.case["workload"]["endpoint"] == "chat":
        # Chat templates take text: one short word is about one token, and the server's count is what is reported.
        body["messages"] = [{"role": "user", "content": " ".join(f"w{token % 1000}" for token in prompt)}]
    else:
        body["prompt"] = prompt
    if plan.dialect in ("vllm", "sglang"):
        body["ignore_eos"] = True
    if plan.dialect == "vllm":
        body["min_tokens"] = record.output_tokens_asked
        body["stream_options"]["continuous_usage_stats"] = True
        if keep_answer:
            body["return_token_ids"] = True
    return body


def _take_event(record: RequestRecord, event: dict[str, Any], now_ns: int, answer: list[int]) -> None:
    if "error" in event:
        record.error = f"the server said: {str(event['error'])[:300]}"
        return
    usage = event.get("usage") or {}
    total = usage.get("completion_tokens")
    choices = event.get("choices") or []
    if usage.get("prompt_tokens") is not None:
        record.prompt_tokens = usage["prompt_tokens"]
        details = usage.get("prompt_tokens_details") or {}
        if details.get("cached_tokens") is not None:
            record.cached_tokens = details["cached_tokens"]
    if not choices:
        # The closing usage is the truth; without running counts a piece was taken for one token.
        if total is not None and total != record.output_tokens and record.token_counts:
            record.token_counts[-1] += total - record.output_tokens
            record.output_tokens = total
        return
    choice = choices[0]
    ids = choice.get("token_ids") or []
    answer.extend(ids)
    delta = choice.get("delta") or {}
    text = choice.get("text") or delta.get("content") or delta.get("reasoning_content")
    new = len(ids) or (1 if text else 0)
    if total is not None:
        new = total - record.output_tokens
    if new > 0:
        record.token_ns.append(now_ns)
        record.token_counts.append(new)
        record.output_tokens += new
    if choice.get("finish_reason"):
        record.finish_reason = choice["finish_reason"]


async def _warm_up(client: Client) -> None:
    """Requests outside the result, one after another, on tokens that no measured prompt uses."""
    client.start_ns = time.perf_counter_ns()
    for number in range(client.case.workload["warmup_requests"]):
        prompt = client.prompts.tokens(((f"u/warm-up/{number}", 32),))
        record = RequestRecord(f"warm-up/{number}", "warm-up", number, 0, 0, 0, len(prompt), 4)
        await client._request(record, prompt, keep_answer=False)
        if record.error is not None:
            raise RevatiError(f"a warm-up request failed: {record.error}")


async def _run(plan: ClientPlan) -> dict[str, Any]:
    out = Path(plan.out)
    workload = Workload(plan.case_object())
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    timer = Timer()
    lines = (out / "requests.jsonl").open("w", encoding="utf-8")
    samples = (out / "samples.jsonl").open("w", encoding="utf-8")
    http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
    try:
        client = Client(plan, http, timer, lines, samples)
        await _warm_up(client)
        client.sent = 0
        await look(client)  # before the load, so that counters can be taken as differences
        reason = await client.run(workload)
        await look(client)
        return {"reason": reason, "duration_ns": client.duration_ns, "sent": client.sent, "finished": client.finished}
    finally:
        await http.close()
        timer.close()
        lines.close()
        samples.close()


def main(arguments: list[str]) -> int:
    """Runs the plan file; the outcome goes to client.json beside the requests."""
    plan = ClientPlan(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    summary: dict[str, Any]
    code = 0
    try:
        summary = asyncio.run(_run(plan))
    except RevatiError as error:
        summary, code = {"reason": "error", "message": str(error)}, error.exit_code
        print(f"revati client: {error}", file=sys.stderr)
    (Path(plan.out) / "client.json").write_text(json.dumps(summary), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
