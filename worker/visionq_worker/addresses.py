"""Which internet addresses belong to the public, and to nobody's own network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

# Python 3.11 counts these as global.
_SPECIAL_V4 = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24")))
_UNICAST_V6 = IPv6Network("2000::/3")
# Special assignments (Teredo among them), 6to4, and documentation.
_SPECIAL_V6 = tuple(map(IPv6Network, ("2001::/23", "2002::/16", "3fff::/20")))
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether anybody may be asked there. An IPv4 address within an IPv6 one is looked at itself.

    Mapped and translated (NAT64) ones, that is; 6to4, which nobody runs any more, is refused.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv4Address):
        return _is_public_v4(ip)
    if ip.ipv4_mapped is not None:
        return _is_public_v4(ip.ipv4_mapped)
    if ip in _NAT64:
        return _is_public_v4(IPv4Address(int(ip) & 0xFFFFFFFF))
    return _is_public_v6(ip)


def _is_public_v4(ip: IPv4Address) -> bool:
    is_special = any(ip in network for network in _SPECIAL_V4)
    return ip.is_global and not ip.is_multicast and not is_special


def _is_public_v6(ip: IPv6Address) -> bool:
    is_special = ip.scope_id is not None or any(ip in network for network in _SPECIAL_V6)
    return ip.is_global and ip in _UNICAST_V6 and not is_special
