"""The cache probe: every command of every Redis client of the process, and watched caches.

Commands are seen where clients send them, each with its reply, so hits and misses are what the
code was told. A pipeline is one round trip of many commands. Nothing of a key or a value is kept
but the key's pattern and, to tell keys apart, hashes that live as long as the span.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import wraps
from types import FrameType
from typing import TYPE_CHECKING, Any

from pytest_perfguard.callsite import waiting_user_frame
from pytest_perfguard.key_patterns import as_text, held_object, key_pattern
from pytest_perfguard.probes.cache_ledger import CacheLedger, CacheTally
from pytest_perfguard.probes.redis_commands import ERROR_CODES, Command, command, payload
from pytest_perfguard.probes.redis_internals import Seam, queued, seams
from pytest_perfguard.spans import Clock, OpenSpan, Spans
from pytest_perfguard.units import shown

if TYPE_CHECKING:
    from pytest_perfguard.model import Site
    from pytest_perfguard.probes.cache_counters import Counter


@dataclass(slots=True, eq=False)
class _Key:
    """What is known of a key at first sight, and kept by its hash.

    Attributes:
        size: bytes of its text.
        held: class of an object whose address stands in it.
    """

    identity: int
    pattern: str
    size: int
    held: str | None


# A command under way: where it is added up, what is known of it, its words, and its keys.
_Asked = tuple[CacheTally, Command, Sequence[Any], Sequence[_Key]]
# The same of a pipeline.
_AskedBatch = tuple[CacheTally, Sequence[_Asked]]
_Begin = Callable[[OpenSpan, Any, Sequence[Any], FrameType], Any]
# Takes what was asked, with its reply, and returns whether something was missed.
_Answer = Callable[[OpenSpan, Any, Any], bool]

# Takes up what a client does on its own account.
_NOBODY = CacheTally("", "connect")

_MAX_KNOWN = 4_096
_MAX_PATTERNS = 3
_MAX_SAMPLES = 3
_MAX_SAMPLE_LENGTH = 500


class CacheProbe:
    """Counts and times the commands of every redis-py client, sync and async."""

    name = "cache"

    def __init__(self) -> None:
        self._wrapped: dict[Seam, tuple[Any, Any]] = {}
        # What the commands under way are added to; None where the client acts for itself.
        self._under_way: ContextVar[CacheTally | None] = ContextVar("perfguard_cache", default=None)
        self._spans: Spans | None = None

    def start(self, spans: Spans) -> None:
        """Wrap the clients. What somebody else has put in our place since, is wrapped again."""
        self._spans = spans
        spans.aside = self.aside
        if not self._wrapped:
            try:
                found = list(seams())
            except ImportError:
                # Tests may have put something else in place of redis-py: it sends nothing.
                return
            observer = _Observer(spans, self._under_way)
            self._wrapped = dict.fromkeys(found, (None, None))
            self._make = {
                "command": observer.wrap_command,
                "pipeline": observer.wrap_pipeline,
                "send": observer.wrap_send,
                "aside": observer.wrap_aside,
            }
        for seam, (_, wrapper) in self._wrapped.items():
            current = vars(seam.owner)[seam.method]
            if current is not wrapper:
                made = self._make[seam.role](current, seam.is_async)
                self._wrapped[seam] = current, made
                setattr(seam.owner, seam.method, made)

    def stop(self) -> None:
        """Put the original methods back, where our wrappers are still in their place."""
        for seam, (original, wrapper) in self._wrapped.items():
            if vars(seam.owner).get(seam.method) is wrapper:
                setattr(seam.owner, seam.method, original)
        self._wrapped.clear()
        if self._spans is not None:
            self._spans.aside = nullcontext
            self._spans = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count nothing of what this thread or task sends inside."""
        token = self._under_way.set(_NOBODY)
        try:
            yield
        finally:
            _leave(self._under_way, token)


class Watch:
    """Charges what an in-process cache counts to the span in which it happened.

    It is read whenever a span opens or closes, so the totals of a test are exact; requests that
    run at the same time share what happened between two readings in an order that is not known.
    """

    def __init__(self, name: str, counter: Counter, site: Site | None) -> None:
        self._name = name
        self._counter = counter
        self._site = site
        self._seen = counter.read()

    def __call__(self, span: OpenSpan | None) -> None:
        """Take a reading; what is new since the last one belongs to ``span``."""
        hits, misses = self._counter.read()
        new_hits, new_misses = hits - self._seen[0], misses - self._seen[1]
        self._seen = hits, misses
        if span is None or not (new_hits or new_misses):
            return
        tally = _ledger(span).tally(self._name, "memory", self._site)
        tally.count += new_hits + new_misses
        tally.hits += new_hits
        tally.misses += new_misses

    def close(self) -> None:
        """Leave the cache as it was."""
        self._counter.close()


class _Observer:
    """Makes the wrappers; one for each probe."""

    def __init__(self, spans: Spans, under_way: ContextVar[CacheTally | None]) -> None:
        self._spans = spans
        self._under_way = under_way
        self._is_user = spans.sites.is_user
        self._keys: dict[int, _Key] = {}
        self._library = _library()
        self._shows_parameters = spans.settings.show_parameters

    # -- wrappers --------------------------------------------------------------------------

    def wrap_command(self, original: Callable[..., Any], is_async: bool) -> Callable[..., Any]:  # noqa: FBT001
        """Wrap a method that sends one command and returns its reply."""
        return self._wrap(original, self._begin, self._reply, is_async=is_async)

    def wrap_pipeline(self, original: Callable[..., Any], is_async: bool) -> Callable[..., Any]:  # noqa: FBT001
        """Wrap a method that sends many commands and returns all replies."""
        return self._wrap(original, self._begin_batch, self._replies, is_async=is_async)

    def _wrap(
        self, original: Callable[..., Any], begin: _Begin, answer: _Answer, *, is_async: bool
    ) -> Callable[..., Any]:
        make = self._async_wrapper if is_async else self._sync_wrapper
        return make(original, begin, answer)

    def _sync_wrapper(
        self, original: Callable[..., Any], begin: _Begin, answer: _Answer
    ) -> Callable[..., Any]:
        nearest, innermost = self._spans.nearest, self._spans.innermost
        under_way = self._under_way
        clock = Clock.now
        getframe = sys._getframe

        # The client comes first in what was passed: to hand it all on as it came is cheaper.
        @wraps(original)
        def execute(*passed: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            span = nearest()
            if span is None or span.closed:
                span = innermost()
            if span is None or under_way.get() is not None:
                return original(*passed, **options)
            args = passed[1:]
            asked = begin(span, passed[0], args, getframe(1))
            tally = asked[0]
            is_blocking = asyncio._get_running_loop() is not None
            if is_blocking:
                tally.blocking += 1
            token = under_way.set(tally)
            started = clock()
            try:
                reply = original(*passed, **options)
            except BaseException as error:
                _note_error(tally, error, args, is_blocking=is_blocking)
                raise
            finally:
                took = clock() - started
                under_way.reset(token)
                span.advance(tally, started, took)
            if answer(span, asked, reply) and span.on_miss is not None:
                span.on_miss.wait()
            return reply

        return execute

    def _async_wrapper(
        self, original: Callable[..., Any], begin: _Begin, answer: _Answer
    ) -> Callable[..., Any]:
        nearest, innermost = self._spans.nearest, self._spans.innermost
        under_way = self._under_way
        clock = Clock.now
        getframe = sys._getframe

        @wraps(original)
        def execute(client: Any, *args: Any, **options: Any) -> Any:
            # A plain function: where the coroutine is awaited, by a task of its own perhaps, the
            # line that asked for it is not on the stack any more.
            span = nearest()
            if span is None or span.closed:
                span = innermost()
            if span is None or under_way.get() is not None:
                return original(client, *args, **options)
            return run(span, begin(span, client, args, getframe(1)), client, args, options)

        async def run(span: OpenSpan, asked: Any, client: Any, args: Any, options: Any) -> Any:
            __tracebackhide__ = True
            tally = asked[0]
            token = under_way.set(tally)
            started = clock()
            try:
                reply = await original(client, *args, **options)
            except BaseException as error:
                _note_error(tally, error, args)
                raise
            finally:
                took = clock() - started
                _leave(under_way, token)
                span.advance(tally, started, took)
            if answer(span, asked, reply) and span.on_miss is not None:
                await span.on_miss.wait_async()
            return reply

        return execute

    def wrap_send(self, original: Callable[..., Any], _is_async: bool) -> Callable[..., Any]:  # noqa: FBT001
        """Wrap the method that everything passes that is sent; each call is a round trip."""
        under_way, spans = self._under_way, self._spans

        # It has the arguments that it passes on: cheaper than any.
        @wraps(original)
        def send_packed_command(connection: Any, command: Any, check_health: bool = True) -> Any:  # noqa: FBT001, FBT002
            tally = under_way.get()
            if tally is not None:
                tally.roundtrips += 1
                leaves = spans.leaves
                if leaves is not None and tally is not _NOBODY:
                    leaves("cache", tally.label, tally.site)
            return original(connection, command, check_health)

        return send_packed_command

    def wrap_aside(self, original: Callable[..., Any], is_async: bool) -> Callable[..., Any]:  # noqa: FBT001
        """Wrap a method whose commands and round trips are the client's own affair."""
        under_way = self._under_way

        @wraps(original)
        def aside(owner: Any, *args: Any, **options: Any) -> Any:
            token = under_way.set(_NOBODY)
            try:
                return original(owner, *args, **options)
            finally:
                _leave(under_way, token)

        @wraps(original)
        async def aside_async(owner: Any, *args: Any, **options: Any) -> Any:
            token = under_way.set(_NOBODY)
            try:
                return await original(owner, *args, **options)
            finally:
                _leave(under_way, token)

        return aside_async if is_async else aside

    # -- what is known before the command is sent --------------------------------------------

    def _begin(  # noqa: C901, PLR0912 - a function of its own for any of it would cost a call
        self, span: OpenSpan, _client: object, args: Sequence[Any], inner: FrameType
    ) -> _Asked:
        """Count a command; return what its reply is understood with."""
        known = command(args[0])
        key: _Key | None = None
        # Nearly every lookup, read without another call. Each one counts here.
        if len(args) == 2 and known.has_one_key and type(word := args[1]) is str:  # noqa: PLR2004
            key = self._keys.get(hash(word)) or self._new_key(hash(word), word)
            keys: Sequence[_Key] = (key,)
            pattern, sent = key.pattern, known.size + key.size
        else:
            known, args, keys, pattern, sent = self._read(args)
            if len(keys) == 1:
                key = keys[0]
        # The code is held by the ledger, so no other has its identity.
        is_user = self._is_user
        frame: FrameType | None = inner
        while frame is not None:
            code = frame.f_code
            if is_user[code.co_filename]:
                place = (known.name, pattern, id(code), frame.f_lasti)
                break
            frame = frame.f_back
        else:
            place = (known.name, pattern, *_waiting_place(is_user))
        ledger = span.ledgers.get("cache") or _ledger(span)
        tally: CacheTally | None = ledger.by_place.get(place)
        if tally is None:
            tally = self._first_sight(ledger, known, args, pattern, inner)
            ledger.by_place[place] = tally
        tally.count += 1
        tally.bytes_out += sent
        if key is None:
            _note_objects(tally, keys)
        else:
            if key.held is not None:
                _note_objects(tally, keys)
            # The tally of what is kept no longer one by one has no advice, whatever is added to it.
            if tally.advice is not None:
                tally.repeats += 1
                identity = _hash(args[1:3]) if known.by_field else key.identity
                if identity not in tally.keys:
                    tally.remember(identity)
        if self._shows_parameters and len(tally.samples) < _MAX_SAMPLES:
            tally.samples.append(shown(args, _MAX_SAMPLE_LENGTH))
        return tally, known, args, keys

    def _first_sight(
        self,
        ledger: CacheLedger,
        known: Command,
        args: Sequence[Any],
        pattern: str,
        inner: FrameType,
    ) -> CacheTally:
        """Return the tally of a command that is new at this place of the code."""
        if len(ledger.by_place) >= _MAX_KNOWN:
            ledger.by_place.clear()
        kind = "other" if known.is_lock(args) else known.kind
        site = self._site(ledger, inner)
        tally = ledger.tally(_operation(known, pattern), kind, site, known.advice)
        if site is None:
            through = self._spans.sites.through(inner, self._library)
            if through is not None:
                tally.facts["through"] = through
        return tally

    def _begin_batch(
        self, span: OpenSpan, pipeline: object, _args: object, inner: FrameType
    ) -> _AskedBatch:
        """Count the commands of a pipeline; the round trip is the pipeline's own."""
        ledger = _ledger(span)
        site = self._site(ledger, inner)
        tallies: dict[tuple[str, str], CacheTally] = {}
        batch = []
        for command_args in queued(pipeline):
            known, args, keys, pattern, sent = self._read(command_args)
            tally = tallies.get((known.name, pattern))
            if tally is None:
                operation = _operation(known, pattern)
                tally = ledger.tally(operation, known.kind, site, known.advice)
                tallies[known.name, pattern] = tally
            tally.count += 1
            tally.bytes_out += sent
            _note_objects(tally, keys)
            batch.append((tally, known, args, keys))
        return ledger.tally("pipeline", "pipeline", site), batch

    def _read(self, args: Sequence[Any]) -> tuple[Command, Sequence[Any], Sequence[_Key], str, int]:
        """Return what is known of a command, its words, keys, pattern and size in bytes."""
        known = command(args[0])
        if known.words:
            args = (*known.words, *args[1:])
            known = command(args[0])
        if len(args) == 2 and known.has_one_key:  # noqa: PLR2004 - nearly every lookup
            key = self._key(args[1])
            return known, args, (key,), key.pattern, known.size + key.size
        keys = tuple(map(self._key, known.keys(args)))
        return known, args, keys, _pattern(keys), sum(map(payload, args))

    def _site(self, ledger: CacheLedger, inner: FrameType) -> Site | None:
        """Return the line of the user's code that led here; the ledger holds the code."""
        frame = self._spans.sites.nearest(inner)
        place = (None, 0) if frame is None else (frame.f_code, frame.f_lasti)
        if place not in ledger.sites:
            if len(ledger.sites) >= _MAX_KNOWN:
                ledger.sites.clear()
                ledger.by_place.clear()
            ledger.sites[place] = self._spans.sites.site(inner, self._library)
        return ledger.sites[place]

    def _key(self, word: Any) -> _Key:
        identity = hash(word if type(word) is str else as_text(word))
        return self._keys.get(identity) or self._new_key(identity, word)

    def _new_key(self, identity: int, word: Any) -> _Key:
        if len(self._keys) >= _MAX_KNOWN:
            self._keys.clear()
        pattern = key_pattern(word, self._spans.settings.key_words)
        held = held_object(word) if pattern.endswith("{…}") else None
        key = self._keys[identity] = _Key(identity, pattern, payload(word), held)
        return key

    # -- what is known from the reply ----------------------------------------------------------

    def _reply(self, span: OpenSpan, asked: _Asked, reply: Any) -> bool:
        """Note a reply and return whether something was looked up and not found."""
        tally, known, args, keys = asked
        # Taken first: what is read before a call may be another thread's past after it.
        if type(reply) is bytes:
            received = len(reply)
        elif isinstance(reply, Exception):
            # In a pipeline nobody sends the command again, whatever the error.
            _note_error(tally, reply, ())
            return False
        else:
            received = payload(reply)
        tally.bytes_in += received
        misses = 0
        if known.is_single:
            if reply is None:
                tally.misses += 1
                misses = 1
            else:
                tally.hits += 1
        elif known.lookup is not None:
            try:
                hits, misses = known.lookup(args, reply)
            except (TypeError, ValueError):  # a client that answers in its own way
                return False
            tally.hits += hits
            tally.misses += misses
        if known.expires is not None:
            _note_expiry(span, tally, keys, expires=known.expires(args, reply))
        if span.trace is not None:
            _note_keys(span.trace, tally, known, known.keys(args), found=not misses)
        return misses > 0

    def _replies(self, span: OpenSpan, asked: _AskedBatch, replies: Any) -> bool:
        """Hand each command of a pipeline its reply; return whether any of them missed."""
        _, batch = asked
        if not isinstance(replies, list) or len(replies) != len(batch):
            return False
        missed = False
        for each, reply in zip(batch, replies, strict=True):
            missed |= self._reply(span, each, reply)
        return missed


def _leave(under_way: ContextVar[CacheTally | None], token: Token[CacheTally | None]) -> None:
    # A coroutine that is thrown away is closed wherever that happens.
    try:  # noqa: SIM105 - suppress() costs as much as all the rest
        under_way.reset(token)
    except ValueError:
        pass


def _waiting_place(is_user: Mapping[str, bool]) -> tuple[int, int]:
    """Return where the user's code waits for the current greenlet, as code and instruction."""
    frame = waiting_user_frame(is_user)
    return (0, 0) if frame is None else (id(frame.f_code), frame.f_lasti)


def _ledger(span: OpenSpan) -> CacheLedger:
    ledger: CacheLedger | None = span.ledgers.get("cache")
    if ledger is None:
        # Another thread may be here as well: what it has made is kept.
        ledger = span.ledgers.setdefault("cache", CacheLedger())
    assert ledger is not None
    return ledger


def _note_expiry(
    span: OpenSpan, tally: CacheTally, keys: Sequence[_Key], *, expires: bool | None
) -> None:
    if expires is None:
        return
    ledger = _ledger(span)
    for key in keys:
        if expires:
            ledger.expires(key.identity)
        else:
            ledger.lasts(tally, key.identity)


def _note_keys(
    trace: list[tuple[Any, str, tuple[object, ...]]],
    tally: CacheTally,
    known: Command,
    keys: Sequence[Any],
    *,
    found: bool,
) -> None:
    if known.lookup is not None:
        trace.append((tally, "hit" if found else "miss", tuple(keys)))
    elif tally.kind == "write":
        trace.append((tally, "write", tuple(keys)))
    elif known.is_script:
        # Only the script knows whether it has written.
        trace.append((tally, "script", tuple(keys)))


def _hash(words: Sequence[Any]) -> int:
    """Return a hash of what was sent, the same for text and its bytes."""
    return hash(tuple(map(as_text, words)))


def _pattern(keys: Sequence[_Key]) -> str:
    patterns = list(dict.fromkeys(key.pattern for key in keys))
    if len(patterns) > _MAX_PATTERNS:
        patterns = [*patterns[:_MAX_PATTERNS], "…"]
    return ", ".join(patterns)


def _note_objects(tally: CacheTally, keys: Sequence[_Key]) -> None:
    for key in keys:
        if key.held is not None:
            tally.unstable += 1
            tally.facts["object"] = key.held


def _operation(known: Command, pattern: str) -> str:
    return f"{known.name} {pattern}" if pattern else known.name


def _library() -> str:
    """Return the folder of redis-py, whose own functions are not worth naming."""
    file = getattr(sys.modules.get("redis"), "__file__", None) or ""
    return file.replace("\\", "/").rpartition("/")[0]


def _note_error(
    tally: CacheTally, error: BaseException, args: Sequence[Any], *, is_blocking: bool = False
) -> None:
    """Note a failure by its class and Redis's own code; the rest may quote what was sent."""
    name = type(error).__name__
    if name == "WatchError":
        # An optimistic lock that was lost is part of the game.
        return
    if name == "NoScriptError" and args:
        # The client loads the script and sends the command again: as if it had been there.
        tally.count -= 1
        tally.roundtrips -= 1
        tally.blocking -= is_blocking
        sent = sum(map(payload, args))
        tally.bytes_out -= sent
        return
    tally.errors += 1
    code = str(error).partition(" ")[0]
    tally.facts["error"] = f"{name} ({code})" if code in ERROR_CODES else name
