"""The worker's part of a chat fan-out as one function that needs nothing but Python.

Its source text is sent to endpoints where this package is not installed, and executed there in an
empty namespace for every task. So everything it uses is inside it, it runs from Python 3.9 on, and
what must outlive a task (connections, what servers serve) is kept in a module that it makes up.
"""

from __future__ import annotations


def standalone(bundle: object) -> dict[str, object]:
    """Work on a bundle of chat requests with the standard library alone.

    The format is that of `langgraph_hpc_fanout.remote.bundle`, the outcome that of
    `langgraph_hpc_fanout.remote.run`, but: functions need the package, no proxies are used, and
    each request in flight takes a thread.

    Args:
        bundle: What to do.

    Returns:
        The result, whatever is wrong with the bundle, its requests or the servers.
    """
    import atexit
    import base64
    import email.utils
    import heapq
    import http.client
    import json
    import os
    import random
    import re
    import socket
    import ssl
    import sys
    import threading
    import time
    import types
    import urllib.parse
    from typing import Any

    home = "_langgraph_hpc_fanout_standalone"
    idle_seconds, connect_seconds, gone_seconds = 4.0, 10.0, 2.0
    retryable = ("rate_limited", "cold", "overloaded", "transient", "timeout")
    kinds = {401: "auth", 403: "auth", 408: "transient", 409: "transient", 425: "transient"}
    kinds.update({429: "rate_limited", 503: "overloaded", 529: "overloaded"})
    clock = time.monotonic
    began = clock()
    data: Any = bundle
    worker = f"{socket.gethostname()}:{os.getpid()}"

    class Trouble(Exception):
        """A failure on its way: its kind, what to say, and what else is known."""

        def __init__(
            self, kind: str, message: str, status: Any = None, wait: Any = None, gone: bool = False
        ) -> None:
            super().__init__(message)
            self.kind, self.status, self.wait, self.gone = kind, status, wait, gone

    # -- what outlives a task ---------------------------------------------------------------

    def leave(kept: Any) -> None:
        """Close what waits for the next task; there will be none."""
        for idle in kept.idle.values() if kept.pid == os.getpid() else ():
            while idle:
                idle.pop()[1].close()

    def warm() -> Any:
        """What this process keeps; a forked one starts afresh and leaves the parent's alone."""
        kept: Any = sys.modules.get(home)
        if kept is None or kept.pid != os.getpid():
            fresh: Any = types.ModuleType(home)
            fresh.pid, fresh.lock, fresh.before = os.getpid(), threading.Lock(), kept
            fresh.idle, fresh.listed = {}, {}
            atexit.register(leave, fresh)
            kept = sys.modules[home] = fresh
        return kept

    state = warm()

    # -- rules for servers ------------------------------------------------------------------

    def as_url(text: str) -> Any:
        if re.fullmatch(r"(?i)https?://\S+", text):
            return text
        host, _, port = text.rpartition(":")
        good = host and "/" not in text and port.isdecimal() and 0 < int(port) < 65536
        return f"http://{text}/v1" if good else None

    def is_here(host: str) -> bool:
        own = socket.gethostname().lower()
        if host in ("localhost", "127.0.0.1", "::1", own, own.partition(".")[0]):
            return True
        try:
            found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
        except OSError:
            return False
        for family, _, _, _, address in found:
            try:
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.bind(address)  # only an address of this machine can be bound to
                    return True
            except OSError:
                continue
        return False

    def in_file(path: str) -> Any:
        try:
            with open(os.path.expanduser(os.path.expandvars(path)), errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            return []
        urls = []
        for line in lines:
            words = line.partition("#")[0].replace(",", " ").split()
            if len(words) > 1 and words[1].isdecimal():
                words = [f"{words[0]}:{words[1]}"]
            urls.append(as_url(words[0]) if words else None)
        urls = [url for url in urls if url]
        hosts: Any = {url: urllib.parse.urlsplit(url).hostname or "" for url in urls}
        here = {host: is_here(host.lower()) for host in set(hosts.values())}
        own = [url for url in urls if here[hosts[url]]]
        return own or (urls if len(urls) <= 64 else random.sample(urls, 64))

    def urls_of(rule: str) -> Any:
        if rule.startswith("env:"):
            words = re.split(r"[\s,]+", os.environ.get(rule[4:].strip(), ""))
            return [url for url in map(as_url, words) if url]
        if rule.startswith("file:"):
            return in_file(rule[5:].strip())
        if rule.startswith("ports:"):
            ports = rule[6:].strip()
            ports = ports if "-" in ports else f"{ports}-{ports}"
            rule = f"http://127.0.0.1:{ports}/v1"
        found = re.fullmatch(r"(?i)(https?://[^/\s]*:)(\d+)-(\d+)((?:/.*)?)", rule)
        if found:
            first, last = int(found[2]), int(found[3])
            if 0 < first <= last < 65536 and last - first < 1024:
                ports = range(first, last + 1)  # type: ignore[assignment]
                return [f"{found[1]}{port}{found[4]}" for port in ports]
        elif re.fullmatch(r"(?i)https?://\S+", rule):
            return [rule]
        raise Trouble("permanent", f"{shown(rule)!r} is no rule for servers.")

    def shown(url: str) -> str:
        scheme, _, rest = url.partition("://")
        address = rest.partition("?")[0].rpartition("@")[2]
        return f"{scheme}://{address}" if rest else url

    # -- one exchange -----------------------------------------------------------------------

    def key_header(parts: Any) -> Any:
        if data.get("api_key_env"):
            key = os.environ.get(data["api_key_env"], "").strip()
            if not key:
                said = "the environment variable %s is not set on this node"
                raise Trouble("auth", said % data["api_key_env"])
            return "Bearer " + key
        if parts.username is not None:
            user = urllib.parse.unquote(parts.username)
            user += ":" + urllib.parse.unquote(parts.password or "")
            return "Basic " + base64.b64encode(user.encode()).decode()
        return None

    def connection(url: str, parts: Any, until: float) -> Any:
        """One that is open, or a new one."""
        with state.lock:
            idle = state.idle.setdefault((url, verify), [])
            while idle:
                since, found = idle.pop()
                if clock() - since < idle_seconds:
                    return found
                found.close()
        seconds = max(0.001, min(connect_seconds, until - clock()))
        made: Any
        if parts.scheme == "https":
            trust = ssl.create_default_context()
            if not verify:
                trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
            made = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=seconds, context=trust
            )
        else:
            made = http.client.HTTPConnection(parts.hostname, parts.port, timeout=seconds)
        try:
            made.connect()
        except ssl.SSLCertVerificationError as error:
            said = "the certificate of %s is not trusted here (%s); if it is the server's own, "
            raise Trouble("permanent", (said + "say verify=False.") % (shown(url), error)) from None
        except OSError as error:
            made.close()
            if isinstance(error, socket.timeout) and clock() >= until:
                raise Trouble("timeout", f"{shown(url)} did not answer in time.") from None
            said = "nobody answers at %s (%s); does the server run, and is the URL right?"
            raise Trouble("cold", said % (shown(url), error), gone=True) from None
        return made

    def exchange(url: str, path: str, body: Any, until: float) -> Any:
        """Status, body and Retry-After of one exchange."""
        parts = urllib.parse.urlsplit(re.sub(r"/(chat/completions)?/?$", "", url))
        headers = {"Content-Type": "application/json"}
        authorization = key_header(parts)
        if authorization:
            headers["Authorization"] = authorization
        open_one = connection(url, parts, until)
        plug = open_one.sock
        whole = False
        try:
            plug.settimeout(max(0.001, until - clock()))
            query = "?" + parts.query if parts.query else ""
            target = parts.path.rstrip("/") + path + query
            open_one.request("GET" if body is None else "POST", target, body, headers)
            answer = open_one.getresponse()
            pieces = []
            while not answer.isclosed() and answer.length != 0:
                left = until - clock()
                if left <= 0:
                    raise socket.timeout
                plug.settimeout(left)
                pieces.append(answer.read1(1 << 16))
                if not pieces[-1]:
                    break
            whole = True
            answer.close()
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)
            if not answer.will_close:
                with state.lock:
                    state.idle.setdefault((url, verify), []).append((clock(), open_one))
                open_one = None
            return answer.status, b"".join(pieces), answer.headers.get("Retry-After")
        except socket.timeout:
            raise Trouble("timeout", f"{shown(url)} did not answer in time.") from None
        except (OSError, http.client.HTTPException) as error:
            said = f"{type(error).__name__}: {error}"
            raise Trouble("transient", f"{shown(url)}: {said}") from None
        finally:
            if open_one is not None:
                if not whole:
                    plug.close()
                open_one.close()

    # -- what answers mean ------------------------------------------------------------------

    def sentence(raw: bytes) -> str:
        """What an error body says."""
        text = raw[:3200].decode("utf-8", "replace")
        title = re.search(r"(?is)<title>(.*?)</title>", text)
        if title:
            words = " ".join(title[1].split())[:200]
            return f"HTML page '{words}'"
        try:
            read = json.loads(raw)
        except ValueError:
            read = None
        if isinstance(read, dict):
            for name in ("error", "detail", "message"):
                value = read.get(name)
                if isinstance(value, dict):
                    value = value.get("message")
                if isinstance(value, str) and value:
                    return value[:800]
        return " ".join(text.split())[:200] or "(nothing)"

    def seconds_of(value: Any) -> Any:
        """Seconds in a Retry-After header, a number or a date."""
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                return None
        return max(0.0, seconds) if seconds < float("inf") else None

    def trouble_of(status: int, raw: bytes, wait: Any, url: str) -> Trouble:
        said = sentence(raw)
        lost = re.search(r"(?i)model.*(does not exist|not found|not supported)", said)
        if status == 404 and lost:
            return Trouble("cold", f"{shown(url)}: {said}", status, seconds_of(wait))
        kind = kinds.get(status) or ("transient" if status >= 500 else "permanent")
        said = f"{shown(url)} answered {status}: {said}"
        if 300 <= status < 400 or status in (404, 405):
            said += " Is the URL right? It usually ends in /v1."
        return Trouble(kind, said, status, seconds_of(wait))

    def completion(raw: bytes, url: str) -> Any:
        try:
            read = json.loads(raw)
            first = read["choices"][0]["message"]
        except (ValueError, KeyError, IndexError, TypeError):
            first = None
        if not isinstance(first, dict):
            said = "%s answered no chat completion: %s"
            raise Trouble("transient", said % (shown(url), sentence(raw)), 200)
        return read

    def compact(read: Any, request: Any) -> Any:
        """Of a completion what is of use."""
        choices = []
        for choice in read["choices"]:
            said = choice.get("message") if isinstance(choice, dict) else None
            if not isinstance(said, dict):
                choices.append(choice)
                continue
            names = ("role", "content", "tool_calls", "refusal", "reasoning_content", "reasoning")
            message = {name: said[name] for name in names if said.get(name) is not None}
            message.setdefault("content", None)
            kept = {
                "index": choice.get("index", 0),
                "message": message,
                "finish_reason": choice.get("finish_reason"),
            }
            if request.get("logprobs") and choice.get("logprobs") is not None:
                kept["logprobs"] = choice["logprobs"]
            choices.append(kept)
        body: Any = {"choices": choices}
        if isinstance(read.get("model"), str):
            body["model"] = read["model"]
        if isinstance(read.get("usage"), dict):
            used = read["usage"]
            body["usage"] = {
                name: used[name]
                for name in ("prompt_tokens", "completion_tokens", "total_tokens")
                if isinstance(used.get(name), int)
            }
        return body

    # -- which servers are there ------------------------------------------------------------

    def look(url: str, until: float) -> Any:
        """Ask a server what it serves; returns the trouble if there is one."""
        try:
            status, raw, wait = exchange(url, "/models", None, min(until, clock() + 10))
        except Trouble as trouble:
            return trouble
        if status != 200:
            refused = trouble_of(status, raw, wait, url)
            if refused.kind == "permanent":
                refused.kind = "cold"
            return refused
        try:
            state.listed[(url, verify)] = [str(each["id"]) for each in json.loads(raw)["data"]]
        except (ValueError, KeyError, TypeError):
            return Trouble("cold", f"{shown(url)} lists no models at /models.", 200)
        return None

    def look_at_all(urls: Any, until: float) -> Any:
        """What is wrong with each of the servers that are not there."""
        troubles: Any = {}

        def one(url: str) -> None:
            troubles[url] = look(url, until)

        unknown = [url for url in urls if (url, verify) not in state.listed]
        threads = [threading.Thread(target=one, args=(url,), daemon=True) for url in unknown]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {url: trouble for url, trouble in troubles.items() if trouble is not None}

    def wait_for_servers() -> Any:
        """The URLs that answer, and the trouble with others; waits while none answers."""
        until = began + min(deadline, number("patience", deadline))
        delay = 0.125
        while True:
            urls = list(dict.fromkeys(url for rule in rules for url in urls_of(rule.strip())))
            troubles = look_at_all(urls, began + deadline)
            there = [url for url in urls if (url, verify) in state.listed]
            if any(trouble.kind == "auth" for trouble in troubles.values()) and not there:
                return urls, troubles
            lasting = urls and not any(each.kind in retryable for each in troubles.values())
            wanted = {request.get("model") or model for request in good.values()}
            served = {name for url in there for name in state.listed[(url, verify)]}
            if all(name in served if name else served for name in wanted) or lasting:
                return urls, troubles
            if clock() >= until:
                return urls, troubles
            time.sleep(max(0.0, min(delay, until - clock())))
            delay = min(1.0, 2 * delay)

    # -- the requests -----------------------------------------------------------------------

    def number(name: str, default: float) -> float:
        value = data.get(name)
        return default if value is None else float(value)

    def refusal(trouble: Any, seconds: float = 0.0, tries: int = 0) -> Any:
        said = str(trouble)
        secret = os.environ.get(data.get("api_key_env") or "", "").strip()
        told = {
            "kind": trouble.kind,
            "message": said.replace(secret, "***") if secret else said,
            "status": trouble.status,
            "retryable": trouble.kind in retryable,
            "retry_after": trouble.wait,
        }
        return {"failure": told, "seconds": round(seconds, 6), "tries": tries}

    def envelope(**more: Any) -> dict[str, object]:
        return {"format": 1, "version": data.get("version"), "worker": worker, **more}

    class Asking:
        """The requests of the bundle, worked off by threads."""

        def __init__(self, urls: Any) -> None:
            self.turn = threading.Condition()
            self.waiting: Any = []
            self.count = 0
            self.left = 0
            self.looking = False
            self.ends = began + deadline
            self.servers = {
                url: {"url": url, "flight": 0, "paused": 0.0, "gone": None} for url in urls
            }

        def add(self, item: Any, due: float) -> None:
            self.count += 1
            heapq.heappush(self.waiting, (due, self.count, item))

        def work(self) -> None:
            """A thread: take, send, take again."""
            while True:
                with self.turn:
                    item, server = self.take()
                    if item is None:
                        return
                try:
                    self.send(item, server)
                except Exception as error:  # noqa: BLE001 - a bug must not end the thread
                    said = f"The worker failed: {type(error).__name__}: {error}"
                    self.settle(item, refusal(Trouble("transient", said), 0.0, item["tries"]))

        def take(self) -> Any:
            """The next request that may be sent, and to whom; nothing when all is done."""
            while self.left:
                now = clock()
                if now >= self.ends:
                    return None, None
                due = self.ends
                if self.waiting:
                    due = self.waiting[0][0]
                    if due <= now:
                        item = heapq.heappop(self.waiting)[2]
                        server, due = self.choose(item, now)
                        if server is not None:
                            server["flight"] += 1
                            if self.waiting and self.waiting[0][0] <= now:
                                self.turn.notify()  # there is more to do than this thread can
                            return item, server
                        if due is not None:
                            self.add(item, due)
                        continue
                self.turn.wait(max(0.001, min(due, self.ends) - now))
            return None, None

        def choose(self, item: Any, now: float) -> Any:
            """The server with the least to do, or when to look again; fails the item for good."""
            fitting = []
            for server in self.servers.values():
                listed = state.listed.get((server["url"], verify))
                if listed is None or item["model"] in listed:
                    fitting.append(server)
            able = [each for each in fitting if each["gone"] is None and each["paused"] <= now]
            others = [each for each in able if each["url"] != item["last"]]
            if item["retry"] > now:
                able = others
            if able:
                return min(others or able, key=lambda each: each["flight"]), None
            present = [each for each in fitting if each["gone"] is None]
            if present:
                free = min(each["paused"] for each in present)
                return None, max(now + 0.001, free, item["retry"])
            return self.look_for_gone(item, fitting, now)

        def look_for_gone(self, item: Any, gone: Any, now: float) -> Any:
            """No server of the model is there: see for a moment whether one comes back."""
            if self.looking:
                return None, now + 0.25
            self.looking = True
            self.turn.release()  # others go on meanwhile
            try:
                back = [each for each in gone if look(each["url"], now + 1.0) is None]
            finally:
                self.turn.acquire()
                self.looking = False
            for server in back:
                server["gone"] = None
            if back:
                return None, now
            if all(clock() - server["gone"] > gone_seconds for server in gone):
                reply = refusal(gone[0]["trouble"], item["seconds"], item["tries"])
                self.settle(item, reply, held=True)
                return None, None
            return None, clock() + 0.25

        def send(self, item: Any, server: Any) -> None:
            started = clock()
            until = min(started + timeout, self.ends)
            item["tries"] += 1
            url, request = server["url"], item["request"]
            trouble: Any = None
            body: Any = None
            try:
                asked = dict(request, model=item["model"], stream=False)
                raw = json.dumps(asked).encode()
                status, raw, wait = exchange(url, "/chat/completions", raw, until)
                if status != 200:
                    raise trouble_of(status, raw, wait, url)
                body = compact(completion(raw, url), request)
            except Trouble as error:
                trouble = error
            item["seconds"] = clock() - started
            with self.turn:
                server["flight"] -= 1
                if trouble is None:
                    reply = {"body": body, "seconds": round(item["seconds"], 6)}
                    self.settle(item, dict(reply, tries=item["tries"]), held=True)
                else:
                    self.failed(item, server, trouble)
                    self.turn.notify()

        def failed(self, item: Any, server: Any, trouble: Any) -> None:
            """Try again, or keep the failure."""
            now = clock()
            item["trouble"], item["last"] = trouble, server["url"]
            reply = refusal(trouble, item["seconds"], item["tries"])
            if trouble.kind == "auth":
                for other in list(unsettled.values()):
                    self.settle(other, refusal(trouble, 0.0, other["tries"]), held=True)
                return
            turned_away = trouble.kind in ("rate_limited", "overloaded") or trouble.gone
            item["refused"] = item["refused"] + 1 if turned_away else 0
            item["faults"] += not turned_away
            doublings = min(30, (item["refused"] or item["faults"]) - 1)
            delay = trouble.wait
            if delay is None:
                delay = random.uniform(0, min(30.0, 0.5 * 2.0**doublings))
            if trouble.gone:
                state.listed.pop((server["url"], verify), None)
                server["gone"], server["trouble"] = server["gone"] or now, trouble
                delay = 0.0
            elif turned_away:
                server["paused"] = max(server["paused"], now + delay)
            over = trouble.kind == "permanent" or (trouble.kind == "cold" and not trouble.gone)
            if over or item["faults"] >= attempts or now + delay >= self.ends:
                self.settle(item, reply, held=True)
                return
            item["retry"] = now + delay
            self.add(item, now if len(self.servers) > 1 else item["retry"])

        def settle(self, item: Any, reply: Any, held: bool = False) -> None:
            if not held:
                with self.turn:
                    self.settle(item, reply, held=True)
            elif unsettled.pop(item["place"], None) is not None:
                replies[item["place"]] = reply
                self.left -= 1
                if not self.left:
                    self.turn.notify_all()

        def run(self) -> None:
            self.left = len(unsettled)
            for item in unsettled.values():
                self.add(item, 0.0)
            threads = [
                threading.Thread(target=self.work, daemon=True)
                for _ in range(max(1, min(window, len(unsettled))))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(max(0.0, self.ends + 1.0 - clock()))
            with self.turn:
                for item in list(unsettled.values()):
                    trouble = item["trouble"]
                    if trouble is None:
                        said = "Not %s within the %g s that its bundle had."
                        said = said % ("answered" if item["tries"] else "asked", deadline)
                        trouble = Trouble("timeout", said)
                    self.settle(item, refusal(trouble, item["seconds"], item["tries"]), held=True)

    def said_of(urls: Any, troubles: Any, name: Any) -> Trouble:
        """Why no server can be asked for a model."""
        for trouble in troubles.values():
            if trouble.kind == "auth":
                return Trouble("auth", str(trouble), trouble.status)
        reasons = [str(trouble).rstrip(".") for trouble in troubles.values()]
        for url in urls:
            if (url, verify) in state.listed:
                serves = ", ".join(state.listed[(url, verify)]) or "nothing"
                reasons.append(f"{shown(url)} does not serve it, it serves {serves}")
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        said = "No server on %s can be asked for %s: %s%s."
        lasting = all(trouble.kind == "permanent" for trouble in troubles.values()) and troubles
        kind = "permanent" if lasting else "cold"
        told = said % (worker, name or "any model", "; ".join(reasons[:3]), more)
        return Trouble(kind, told.replace("?.", "?"))

    def ask() -> None:
        urls, troubles = wait_for_servers()
        if not urls:
            named = ", ".join(map(shown, rules)) or "none was named"
            said = "%s found no server (%s); does one run, and do the rules name it?"
            raise Trouble("cold", said % (worker, named))
        there = [url for url in urls if (url, verify) in state.listed]
        served = {name for url in there for name in state.listed[(url, verify)]}
        firsts = [each for url in there for each in state.listed[(url, verify)][:1]]
        for place, request in good.items():
            name = request.get("model") or model or (firsts[0] if firsts else None)
            if name is None or name not in served:
                if place in unsettled_places:
                    replies[place] = refusal(said_of(urls, troubles, name))
                continue
            item = {"place": place, "request": request, "model": name, "last": None}
            item.update(tries=0, faults=0, refused=0, retry=0.0, seconds=0.0, trouble=None)
            unsettled[place] = item
        if unsettled:
            Asking(there).run()

    try:
        if not isinstance(data, dict) or data.get("format") != 1:
            data = data if isinstance(data, dict) else {}
            said = f"This is no bundle of format 1, which is what the worker ({worker}) reads."
            raise Trouble("permanent", said)
        if data.get("function"):
            said = "The function %s needs ship='package': langgraph-hpc-fanout must be installed "
            said += "where the endpoint's workers run."
            raise Trouble("permanent", said % data["function"])
        verify = data.get("verify") is not False
        rules = list(data.get("servers") or ())
        model = data.get("model")
        window, attempts = int(number("window", 64)), int(number("attempts", 3))
        timeout, deadline = number("timeout", 600.0), number("deadline", 3600.0)
        requests = list(data.get("requests") or ())
        replies: Any = [None] * len(requests)
        unsettled: Any = {}
        good = {}
        for place, request in enumerate(requests):
            if isinstance(request, dict) and isinstance(request.get("messages"), list):
                good[place] = request
            else:
                said = f"This is no chat request, it has no messages: {request!r:.200}"
                replies[place] = refusal(Trouble("permanent", said))
        unsettled_places = set(good)
        if good and deadline > 0:
            ask()
        late = Trouble("timeout", f"Not asked within the {deadline:g} s that its bundle had.")
        replies = [reply or refusal(late) for reply in replies]
        return envelope(seconds=round(clock() - began, 6), replies=replies)
    except Trouble as trouble:
        return envelope(error={"kind": trouble.kind, "message": str(trouble)})
    except Exception as error:  # noqa: BLE001 - a task that raises loses all of its answers
        said = f"The worker failed: {type(error).__name__}: {error}"
        return envelope(error={"kind": "transient", "message": said})
