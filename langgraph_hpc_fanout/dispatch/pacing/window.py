"""How many requests one endpoint is given at once, found by trying.

The window that is sought has the most of `rate / window ** 0.3`, where the rate is what the server
gets done in a second: a larger window is worth its queue only while the rate rises by at least
three tenths as fast. (It is the "power" of a network, throughput over delay, with an exponent that
favours throughput: Kleinrock, "Power and deterministic rules of thumb for probabilistic problems
in computer communications", ICC 1979.) It is found by trials, one after another:

- Slow start (Jacobson, "Congestion avoidance and control", SIGCOMM 1988): double while that pays.
  When it does not, the first window may have been too large already: halve while that pays.
- Then hold, and try a quarter more, or less, now and then, and more rarely when neither pays.
  What pays is tried again at once, in larger steps.
- A refusal (429, 503, timeout) ends a trial, or takes a fifth. The window at which it came is a
  ceiling for a while, which trials approach by halves: a sawtooth would cost a tenth of the
  throughput.
- A queue that is too long by the server's own gauge is taken away, by each client its share, and
  while there is a short one every client adds one request a round, so that shares even out (Chiu
  and Jain, "Analysis of the increase and decrease algorithms for congestion avoidance in computer
  networks", Computer Networks and ISDN Systems 17, 1989).
- A pace that is off its long average by half says that the server has changed. This is the
  signal of Gradient2 in Netflix's concurrency-limits, but here it asks for a trial and does not
  cut: a server that became slower for good is given as much as before.
- No growth while requests take several times as long as at the server's best: two clients of one
  server gain by each other's loss, and would race for ever longer queues.

Rates follow from paces by Little's law: requests in flight, over the seconds that a token takes.
The seconds vary tenfold from answer to answer, those of a token little, and when answers arrive
does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST = 16
"""Requests at once, to begin with, when nothing was said."""
MOST = 4_096
"""Requests at once that are never exceeded."""

_WORTH = 0.3
"""Least relative rise of the rate for a small relative rise of the window."""
_FASTEST, _STEP = 2.0, 1.25
"""Factors between windows that are compared: in slow start, and afterwards."""
_CUT = 0.8
"""Share that is left after a refusal."""
_YIELD = 0.9
"""Share that is left after a larger window was refused, so that a newcomer gets in."""
_FEWEST, _ENOUGH = 32, 192
"""Answers that tell a window from one twice as large, and the most that small windows wait for.
Service times vary by about as much as their mean."""
_USED = 0.9
"""Share of a window that must be in use for a comparison to mean anything."""
_LN_2 = math.log(2)
_SHOCK = 1.5
"""Factor between a pace and its long average beyond which the server has changed."""
_LONG = 0.1
"""Weight of the newest round in the long average of paces: some ten rounds."""
_SLOW = 3.0
"""Pace, over the best known, beyond which a window does not grow."""
_FORGET = 1 / 1024
"""Share by which the best known pace comes closer to today's with every round."""
_LEAST_PATIENCE, _MOST_PATIENCE = 1, 4
"""Rounds between trials."""
_TURNS = 4
"""Of so many trials, one is of a smaller window: that costs throughput, a larger one does not."""
_CEILING_TRIPS, _TOLD_TRIPS = 16, 64
"""Round trips for which a window that was refused is not tried again, and for which refusals are
believed to tell where the window ends, so that few answers do for a comparison."""
_NEAR = 1.02
"""Factor below which a ceiling is as good as reached."""
_QUEUE = 8
"""Requests that may wait at the server, so that it never idles; of fewer than 64, an eighth."""
_GAUGE_AGE = 60.0
"""Seconds for which a reading of the server's gauge says something."""
_TRIP = 1.0
"""Seconds of a round trip while no answer has told."""
_TRIP_SHARE = 1 / 16
"""Weight of the newest answer in the average of round trips."""


@dataclass(slots=True)
class _Round:
    """What the answers of a round add up to.

    Attributes:
        skip: Answers that still belong to the window before; they are not counted.
        left: Answers until the round is over.
        answers: Those counted.
        seconds: Their latencies, added up.
        tokens: Their tokens.
        in_flight: The requests in flight as each came, added up.
    """

    skip: int
    left: int
    answers: int = 0
    seconds: float = 0.0
    tokens: float = 0.0
    in_flight: int = 0

    @property
    def pace(self) -> float:
        """Seconds a token."""
        return max(self.seconds, 1e-9) / self.tokens

    @property
    def used(self) -> float:
        """Mean of the requests in flight."""
        return self.in_flight / self.answers

    @property
    def rate(self) -> float:
        """Tokens a second, by Little's law."""
        return self.used / self.pace


class Window:
    """The requests that may be in flight at one endpoint. Pure: the caller says what time it is.

    Args:
        most: Requests that the user says it can take: the window starts there, comes down when
            it must, and never exceeds it. None: it starts at 16 and finds its own size.

    Attributes:
        limit: Requests that may be in flight now, at least 1.
    """

    __slots__ = (
        "_asked",
        "_backlog",
        "_best",
        "_ceiling",
        "_cut_at",
        "_direction",
        "_factor",
        "_gauge_at",
        "_held",
        "_home",
        "_most",
        "_pace",
        "_patience",
        "_rate",
        "_round",
        "_seeking",
        "_starting",
        "_trip",
        "_turns",
        "_typical",
        "_waiting",
        "limit",
    )

    def __init__(self, most: int | None) -> None:
        self._most = MOST if most is None else most
        self._seeking = most is None  # whether smaller windows are tried unasked
        self.limit = FIRST if most is None else most
        self._home = self.limit  # the best window known; `limit` differs from it during trials
        self._starting = self._seeking
        self._rate = 0.0  # at home; 0 while unknown
        self._direction = 0  # of the trial under way: 1 up, -1 down, 0 none
        self._asked = 0  # direction of the trial that a shock asks for
        self._turns = 0
        self._factor = _FASTEST if most is None else _STEP
        self._patience = _LEAST_PATIENCE
        self._held = 0
        self._pace = 0.0  # long average; 0 while unknown
        self._best = math.inf
        self._ceiling = math.inf
        self._cut_at = -math.inf
        self._trip = _TRIP
        self._typical = 1.0
        self._backlog = 0  # readings in a row that saw a long queue
        self._gauge_at = -math.inf
        self._waiting = 0
        self._round = _Round(self.limit, self._answers_needed(0.0))

    def __repr__(self) -> str:
        return f"Window({self.limit}, home {self._home}, at most {self._most})"

    # -- what is told ---------------------------------------------------------------------------

    def succeeded(self, now: float, seconds: float, tokens: int, in_flight: int) -> None:
        """An answer has come.

        Args:
            now: The time.
            seconds: From sending to its end.
            tokens: Tokens that were written; 0 when that is unknown.
            in_flight: Requests in flight just before, this one included.
        """
        self._trip += (seconds - self._trip) * _TRIP_SHARE
        round_ = self._round
        if round_.skip:
            round_.skip -= 1
            return
        if tokens:
            self._typical += (tokens - self._typical) * _LONG
        round_.answers += 1
        round_.seconds += seconds
        round_.tokens += tokens or self._typical
        round_.in_flight += in_flight
        round_.left -= 1
        if not round_.left:
            self._judge(now)

    def overloaded(self, now: float, seconds: float = 0.0) -> None:
        """A request was refused for want of room, or timed out.

        Counts at most once a round trip, and only if the request was sent since the last cut.

        Args:
            now: The time.
            seconds: Since it was sent.
        """
        if now < self._cut_at + self._trip or now - seconds < self._cut_at:
            return
        left = self.limit * _CUT
        if self._direction > 0:
            left = self._home if self._is_told(now, _CEILING_TRIPS) else self._home * _YIELD
        self._cut_at, self._ceiling = now, self.limit
        self._retreat(int(left), now)

    def queued(self, now: float, waiting: int, running: int = 0) -> None:
        """The server's own gauges were read.

        Args:
            now: The time.
            waiting: Requests that wait there, of all its clients.
            running: Requests that it works on, of all its clients; 0 if it has no other.
        """
        self._gauge_at, self._waiting = now, waiting
        total = max(self.limit, waiting + running)
        excess = waiting - min(_QUEUE, total // _QUEUE)
        if excess <= 0:
            self._backlog = 0
            return
        self._backlog += 1
        if self._backlog > 1 and not self._round.skip:
            self._backlog = 0
            ours = round(excess * self.limit / total)
            least = self._home if self._direction > 0 else int(self.limit * _CUT)
            self._retreat(max(least, self.limit - ours), now)

    # -- judging --------------------------------------------------------------------------------

    def _judge(self, now: float) -> None:
        """A round is over."""
        done = self._round
        if done.used < min(_USED * self.limit, self.limit - 0.5):
            self._go(self._home, 0, now)
            return
        self._best = min(done.pace, self._best + (done.pace - self._best) * _FORGET)
        if self._direction:
            self._compare(done, now)
        else:
            self._hold(done, now)

    def _hold(self, done: _Round, now: float) -> None:
        """The window is at home: learn its rate, and see whether a trial is due."""
        self._rate = (self._rate + done.rate) / 2 if self._rate else done.rate
        shock = self._feel(done.pace)
        self._held += 1
        if self._waiting > 0 and not self._backlog and self._is_gauged(now):
            self._home = min(self._most, self._home + 1)  # all clients alike: shares even out
            self._go(self._home, 0, now)
            return
        if shock:  # latencies lag behind a change: the next round tells the rate
            self._asked, self._rate, self._patience = -shock, 0.0, _LEAST_PATIENCE
            self._go(self._home, 0, now)
        elif self._asked:
            self._try(self._asked, now, asked=True)
        elif self._held >= self._patience or self._is_told(now, _TOLD_TRIPS):
            self._turns = (self._turns + 1) % _TURNS
            self._try(1 if self._turns else -1, now, asked=False)
        else:
            self._go(self._home, 0, now)

    def _feel(self, pace: float) -> int:
        """Fold a pace into the long average; says whether it is a shock: 1 slower, -1 faster."""
        self._pace = self._pace or pace
        shock = (pace > self._pace * _SHOCK) - (pace * _SHOCK < self._pace)
        if shock:
            self._pace = pace
        self._pace += (pace - self._pace) * _LONG
        return shock

    def _compare(self, done: _Round, now: float) -> None:
        """A trial is over: stay there, or go home."""
        direction = self._direction
        worth = (self.limit / self._home) ** _WORTH
        if done.rate >= self._rate * worth and not (direction > 0 and self._is_backed_up(now)):
            self._home, self._rate, self._pace = self.limit, done.rate, done.pace
            self._factor = min(_FASTEST, self._factor * _STEP)
            self._patience = _LEAST_PATIENCE
            self._try(direction, now, asked=True)
            return
        self._reject()
        if self._starting and direction > 0:
            self._starting, self._factor = False, _FASTEST
            self._try(-1, now, asked=True)
        else:
            self._go(self._home, 0, now)

    def _reject(self) -> None:
        """A trial did not pay: take smaller steps, and more time."""
        self._factor = _STEP
        self._patience = min(_MOST_PATIENCE, 2 * self._patience)

    def _try(self, direction: int, now: float, *, asked: bool) -> None:
        """Begin a trial in a direction, or stay at home where it makes no sense."""
        self._held = self._asked = 0
        target = self._above(now) if direction > 0 else self._below(now, asked=asked)
        self._go(target, direction if target != self._home else 0, now)

    def _above(self, now: float) -> int:
        """A larger window to try, or home."""
        home = self._home
        ceiling = self._ceiling if self._is_told(now, _CEILING_TRIPS) else math.inf
        crowded = not self._starting and self._pace > _SLOW * self._best
        if crowded or self._is_backed_up(now) or ceiling <= max(home + 1, home * _NEAR):
            return home
        target = max(home + 1, int(home * self._factor))
        if ceiling < math.inf:
            target = min(target, max(home + 1, int(home + ceiling) // 2))
        return min(self._most, target)

    def _below(self, now: float, *, asked: bool) -> int:
        """A smaller window to try, or home: also where nobody asked and the server would tell."""
        if not asked and (not self._seeking or self._is_watched(now)):
            return self._home
        return max(1, min(self._home - 1, int(self._home / self._factor)))

    def _is_backed_up(self, now: float) -> bool:
        """Whether the gauge saw a queue, so that a larger window would do nothing but wait."""
        return self._waiting > 0 and self._is_gauged(now)

    def _is_gauged(self, now: float) -> bool:
        """Whether the gauge was read lately."""
        return now - self._gauge_at < _GAUGE_AGE

    def _is_watched(self, now: float) -> bool:
        """Whether a gauge or refusals tell when the window is too large."""
        return self._is_gauged(now) or self._is_told(now, _TOLD_TRIPS)

    def _is_told(self, now: float, trips: int) -> bool:
        """Whether there was a refusal within so many round trips."""
        return now < self._cut_at + trips * self._trip

    # -- moving ---------------------------------------------------------------------------------

    def _retreat(self, limit: int, now: float) -> None:
        """The window is too large: end a trial, and make a smaller window home."""
        if self._direction > 0:
            self._reject()
        self._home, self._rate, self._factor = max(1, limit), 0.0, _STEP
        self._starting, self._held, self._asked = False, 0, 0
        self._go(self._home, 0, now)

    def _go(self, limit: int, direction: int, now: float) -> None:
        """Change the window; what is in flight belongs to the one before."""
        skip = max(self.limit, limit) if limit != self.limit else 0
        self.limit, self._direction = limit, direction
        self._round = _Round(skip, self._answers_needed(now))

    def _answers_needed(self, now: float) -> int:
        """Answers that make up a round: the closer the windows to compare, the more."""
        if self._is_watched(now):
            return self.limit
        ratio = self.limit / self._home if self._direction else self._factor
        most = _ENOUGH if self._direction else _ENOUGH // 2
        return max(self.limit, min(most, int(_FEWEST * (_LN_2 / math.log(ratio)) ** 2)))
