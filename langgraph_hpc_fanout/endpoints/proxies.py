"""The proxy that the environment names for a host, as curl and requests read it."""

from __future__ import annotations

import ipaddress
from urllib.request import getproxies, proxy_bypass

from yarl import URL


def proxy_for(url: URL) -> URL | None:
    """The proxy to go through, or None: loopback is never reached through one."""
    host = url.host or ""
    if _is_loopback(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy:
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
